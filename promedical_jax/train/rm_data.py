"""What a reward model's run learns from: cases to train on, cases kept apart for calibration, cases held out, and the sizes that hold them all."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promedical_jax.config import RmConfig
from promedical_jax.data.encode import Encoded, Sizes, measure
from promedical_jax.data.foreign import with_foreign
from promedical_jax.data.load import encode_file, judged_only
from promedical_jax.data.long import TooLong, fit
from promedical_jax.errors import InputError


class Data(NamedTuple):
    """`config`: the recipe with the steps that its epochs come to. `kept`: whether the held-out cases are a share of the recipe's cases."""

    config: RmConfig
    train: list[Encoded]
    apart: list[Encoded]
    held_out: list[Encoded]
    kept: bool
    sizes: Sizes
    too_long: list[tuple[Path, int, list[TooLong]]]  # of each file: how many of so many cases


def split(config: RmConfig, tokenizer: Any, cases: list[Encoded] | None = None) -> Data:
    """Reads and splits, by the recipe's seed alone. `cases`: those of config.cases, if they are read already. Raises InputError for what cannot be."""
    if config.held_out and config.held_out_share:
        raise InputError(f"held_out={config.held_out} and held_out_share={config.held_out_share:g} are both given; give one of them")
    if not (config.pair_weight or config.verdict_weight):
        raise InputError("pair_weight and verdict_weight are both 0, and nothing would be learned; raise one of them")
    if config.kind == "implicit" and not config.pair_weight:
        raise InputError("pair_weight is 0, and an implicit reward model learns from pairs alone; raise it")
    if config.foreign and config.kind != "explicit":
        raise InputError(f"foreign is {config.foreign}, and a reward model of kind {config.kind} is told no criterion; set foreign to 0")
    too_long = []

    def judged(path: Path, read: list[Encoded] | None = None) -> list[Encoded]:
        encoded = judged_only(encode_file(path, tokenizer, config.kind, config.raters) if read is None else read, path)
        fitting, over = fit(encoded, config.shapes, config.long, str(path))
        if over:
            too_long.append((path, len(encoded), over))
        return fitting

    train = judged(config.cases, cases)
    held_out = judged(config.held_out) if config.held_out else []
    both = {case.case.id for case in train} & {case.case.id for case in held_out}
    if both:
        raise InputError(f"{config.held_out}: case {min(both)!r} is also a training case in {config.cases}; take it out of one of them")
    order = np.random.default_rng(config.seed).permutation(len(train))
    shares = [round(config.held_out_share * len(train)), max(1, round(config.calibration.share * len(train)))]
    kept, apart, train = ([train[i] for i in part] for part in np.split(order, np.cumsum(shares)))
    held_out = kept or held_out
    if len(train) < config.batch:
        left = f"{len(train)} cases are left to train on, fewer than a batch of {config.batch}; lower --batch or add cases"
        raise InputError(f"{config.cases}: {left} ({len(apart)} are kept apart for calibration, {len(kept)} are held out)")
    if config.foreign:
        train = with_foreign(train, config.foreign, config.seed)
    sizes = measure([*train, *apart, *held_out], config.shapes, str(config.cases))
    if config.epochs:
        config = config.model_copy(update={"steps": max(-(-config.epochs * len(train) // config.batch), 1)})
    return Data(config, train, apart, held_out, bool(kept), sizes, too_long)
