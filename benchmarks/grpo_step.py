"""A whole step of GRPO on the tree and its phases: rollout, reference, update. The work is that of the peers' scripts: no reward model, a trivial reward.

    python -m benchmarks.grpo_step --cases 4 --prompt 128 --answers 8 --answer 128
    python -m benchmarks.grpo_step --cases 2 --prompt 512 --answers 8 --answer 64

Every answer is R tokens long (no stop token), the KL weight is 0.04, one update a batch by AdamW, all parameters float32 and trained. The functions are those
that `promedical train grpo` calls. Prints one JSON line: seconds a step, the median of `--times` after one that compiles, and the median of each phase.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import sizes

SHAPES = {"cases": 4, "prompt": 128, "answers": 8, "answer": 128}
NEVER = -1  # no token stops an answer


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES)
    import jax
    import numpy as np

    from promedical_jax.config import GrpoConfig, Optimizer
    from promedical_jax.data.batches import to_devices
    from promedical_jax.model import transformer
    from promedical_jax.model.sharding import make_mesh
    from promedical_jax.model.transformer import Compute
    from promedical_jax.rollout import sample
    from promedical_jax.train.grpo import make_step
    from promedical_jax.train.grpo_loss import Before
    from promedical_jax.train.optimizer import make_optimizer, start
    from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

    b, p, g, r = (getattr(given, name) for name in SHAPES)
    model, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype, "none")
    nowhere = Path()  # no file is read
    config = GrpoConfig(out=nowhere, cases=nowhere, model=nowhere, reward_model=nowhere, answers=g, answer_tokens=r, kl=0.04)
    optimizer = make_optimizer(Optimizer(learning_rate=1e-6), given.times + 1)
    mesh = make_mesh(devices=jax.devices()[:1])
    steps: list[float] = []
    phases: dict[str, list[float]] = {name: [] for name in ("rollout", "reference", "update")}
    with jax.set_mesh(mesh):
        state, where = start(sizes.weights(model, given), transformer.axes(model), optimizer, mesh, given.dtype)
        frozen = jax.tree.map(lambda x: x + 0, state.params)
        update = make_step(config, model, compute, optimizer, where)
        for number in range(given.times + 1):
            marks = [time.perf_counter()]

            def mark(x, marks=marks):
                jax.block_until_ready(x)
                marks.append(time.perf_counter())
                return x

            read = to_devices({"prompts": sizes.tokens(rng, model.vocabulary, b, p), "lengths": sizes.full(p, b), "cases": np.arange(b)})
            prompts, lengths, cases = (read[name] for name in ("prompts", "lengths", "cases"))
            key = jax.random.key(number)
            rollout = mark(sample(state.params, model, prompts, lengths, key, cases, answers=g, answer_tokens=r, stop=NEVER, compute=compute))
            answers = AnswerBatch(prompts, lengths, rollout.tokens, rollout.lengths)
            reference = mark(frozen_log_probs(frozen, model, answers, 1.0, compute))
            reward = (np.asarray(rollout.tokens) % 7 == 0).mean(-1)
            advantages = ((reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True) + 1e-4)).astype(np.float32)
            advantages = to_devices({"advantages": advantages})["advantages"]
            state, metrics = mark(update(state, {}, answers, Before(rollout.log_probs, reference), advantages))
            if number:
                steps.append(marks[-1] - marks[0])
                for name, begin, end in zip(phases, marks, marks[1:], strict=False):
                    phases[name].append(end - begin)
    assert np.asarray(rollout.lengths).min() == r
    figures = {
        "seconds_per_step": round(statistics.median(steps), 3),
        "phases": {name: round(statistics.median(each), 3) for name, each in phases.items()},
        "steps": [round(seconds, 3) for seconds in steps],
        "sampling_logp_difference_max": float(f"{float(metrics['sampling/sampling_logp_difference/max']):.1e}"),
    }
    sizes.publish("grpo_step", figures, given, list(SHAPES))


if __name__ == "__main__":
    main()
