"""Measurements: each module prints one JSON line. Run as `python -m benchmarks.NAME`."""
