"""Suites and reports: figures with intervals, and their writing for programs, for the page and for the terminal."""

from promedical_jax.bench.html import write_report
from promedical_jax.bench.intervals import Interval, bootstrap, bootstrap_ratio, wilson
from promedical_jax.bench.report import Example, ExampleAnswer, ExampleRow, PolicyFigures, Report, read_metrics, read_report
from promedical_jax.bench.reward_figures import RewardModelFigures

__all__ = [
    "Example",
    "ExampleAnswer",
    "ExampleRow",
    "Interval",
    "PolicyFigures",
    "Report",
    "RewardModelFigures",
    "bootstrap",
    "bootstrap_ratio",
    "read_metrics",
    "read_report",
    "wilson",
    "write_report",
]
