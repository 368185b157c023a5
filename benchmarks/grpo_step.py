"""A whole step of GRPO on the tree and its phases: rollout, reward, reference, update.

    python -m benchmarks.grpo_step --cases 4 --prompt 128 --answers 8 --answer 128
    python -m benchmarks.grpo_step --cases 2 --prompt 512 --answers 8 --answer 64
    python -m benchmarks.grpo_step --reward-model --criteria 8 --criterion 24

As it is, the work is that of the peers' scripts: no reward model, a trivial reward. With `--reward-model` one of the policy's size scores all criteria of all
answers, as in a run, and its verdicts become scores and lexicographic advantages.

Every answer is R tokens long (no stop token), the KL weight is 0.04, one update a batch by AdamW, all parameters float32 and trained. The functions are those
that `promedical train grpo` calls. Prints one JSON line: seconds a step, the median of `--times` after one that compiles, and the median of each phase.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import sizes

SHAPES = {"cases": 4, "prompt": 128, "answers": 8, "answer": 128, "criteria": 8, "criterion": 24}
SWITCHES = {"reward-model": "score the answers by a reward model of the policy's size, with random weights"}
NEVER = -1  # no token stops an answer


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, None, SWITCHES, **SHAPES)
    import jax
    import numpy as np

    from promedical_jax.config import GrpoConfig, Optimizer
    from promedical_jax.data.batches import to_devices
    from promedical_jax.model import transformer
    from promedical_jax.model.heads import init_heads
    from promedical_jax.model.sharding import make_mesh
    from promedical_jax.model.transformer import Compute
    from promedical_jax.reward import TIERS, UNCALIBRATED, RewardBatch, RewardModel
    from promedical_jax.rollout import sample
    from promedical_jax.rubric import Case, Tier
    from promedical_jax.train import rewards
    from promedical_jax.train.grpo import make_step
    from promedical_jax.train.grpo_loss import Before
    from promedical_jax.train.optimizer import make_optimizer, start
    from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

    b, p, g, r, k, c = (getattr(given, name) for name in SHAPES)
    model, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype, "none")
    nowhere = Path()  # no file is read
    config = GrpoConfig(out=nowhere, cases=nowhere, model=nowhere, reward_model=nowhere, answers=g, answer_tokens=r, kl=0.04)
    optimizer = make_optimizer(Optimizer(learning_rate=1e-6), given.times + 1)
    mesh = make_mesh(devices=jax.devices()[:1])
    steps: list[float] = []
    phases: dict[str, list[float]] = {name: [] for name in ("rollout", "reward", "reference", "update")}
    tiers = [TIERS[i % len(TIERS)] for i in range(k)]
    weight = {Tier.PROFICIENCY: {"weight": 1 / tiers.count(Tier.PROFICIENCY)}}
    rubric = [{"id": f"c{i}", "text": "?", "tier": tier} | weight.get(tier, {}) for i, tier in enumerate(tiers)]
    case = Case.model_validate({"id": "case", "instruction": [{"role": "user", "content": "?"}], "rubric": {"criteria": rubric}})
    with jax.set_mesh(mesh):
        state, where = start(sizes.weights(model, given), transformer.axes(model), optimizer, mesh, given.dtype)
        frozen = jax.tree.map(lambda x: x + 0, state.params)
        judge = None
        if given.reward_model:
            backbone = jax.tree.map(lambda x: x * 1.01, frozen)  # other weights, as in a run
            judge = RewardModel({"backbone": backbone, "heads": init_heads(len(TIERS), model.width, jax.random.key(1))}, model, UNCALIBRATED)
        criteria = {"tokens": sizes.tokens(rng, model.vocabulary, b, k, c), "lengths": sizes.full(c, b, k), "tiers": np.tile(np.arange(k) % len(TIERS), (b, 1))}
        criteria = to_devices(criteria)
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
            if judge:
                batch = RewardBatch(*answers[:4], criteria["tokens"], criteria["lengths"], criteria["tiers"])
                advantages = rewards.judge(judge, batch, [case] * b, config, compute).advantage
            else:
                reward = (np.asarray(rollout.tokens) % 7 == 0).mean(-1)
                advantages = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, keepdims=True) + 1e-4)
            advantages = mark(to_devices({"advantages": advantages.astype(np.float32)})["advantages"])
            reference = mark(frozen_log_probs(frozen, model, answers, 1.0, compute))
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
    sizes.publish("grpo_step", figures, given, [*SHAPES, "reward_model"] if given.reward_model else list(SHAPES)[:4])


if __name__ == "__main__":
    main()
