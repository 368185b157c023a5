"""Parity with TRL's GRPOTrainer: the same tiny model, tokens, log-probs and advantages give the same loss and gradients within 1e-5."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import close, ragged

from promedical_jax.clinic import build_tokenizer
from promedical_jax.model import hf
from promedical_jax.train.grpo_loss import Before, Objective, loss
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
make_goldens = pytest.importorskip("goldens.make_goldens")
pytestmark = pytest.mark.live

B, G, P, R = 2, 4, 9, 7
LOSS = {"tokens": "bnpo", "answers": "grpo", "constant": "dr_grpo"}  # our names, theirs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of theirs in a folder, the same as ours, and a rollout: log-probs of sampler and reference somewhat apart from its own."""
    folder = tmp_path_factory.mktemp("model")
    make_goldens.build(7, "qwen3", vocab_size=520, hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=8, rope_theta=1e4, tie_word_embeddings=False).save_pretrained(folder)  # fmt: skip
    build_tokenizer().save_pretrained(folder)
    rng = np.random.default_rng(5)
    answers, lengths = ragged(rng, B, G, R, low=1, vocabulary=512)
    prompt, prompt_length = ragged(rng, B, P, vocabulary=512)
    rows = AnswerBatch(prompt, prompt_length, answers, lengths)
    config = hf.read_config(folder)
    params = hf.load(folder, config)
    own = np.asarray(frozen_log_probs(params, config, rows))
    old, reference = (own + 0.3 * rng.normal(size=own.shape) for _ in range(2))
    given = {"old": old, "reference": reference, "advantages": rng.normal(size=(B, G))}
    return SimpleNamespace(folder=folder, config=config, params=params, rows=rows, **{name: x.astype(np.float32) for name, x in given.items()})


def trainer(place: SimpleNamespace, out: Path, wanted: Objective):
    """Theirs, of the same objective, on the folder."""
    from datasets import Dataset

    settings = trl.GRPOConfig(
        output_dir=str(out), per_device_train_batch_size=B * G, num_generations=G, max_completion_length=R, loss_type=LOSS[wanted.aggregate], beta=wanted.kl,
        importance_sampling_level=wanted.ratio, epsilon=wanted.clip_low, epsilon_high=wanted.clip_high, entropy_coef=wanted.entropy,
        use_bias_correction_kl=wanted.kl_unbiased, use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False, disable_dropout=True,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    theirs = trl.GRPOTrainer(model=str(place.folder), reward_funcs=lambda completions, **_: [0.0] * len(completions), args=settings,
                             train_dataset=Dataset.from_dict({"prompt": ["a"] * B * G}))  # fmt: skip
    theirs.model.eval()
    return theirs


def their_inputs(place: SimpleNamespace) -> dict:
    """Theirs is flat, a row an answer, with the prompt padded on the left."""
    prompt, mask = np.zeros((B * G, P), np.int64), np.zeros((B * G, P), np.int64)
    for b in range(B):
        n = int(place.rows.prompt_length[b])
        prompt[b * G : (b + 1) * G, P - n :], mask[b * G : (b + 1) * G, P - n :] = place.rows.prompt[b, :n], 1
    real = np.asarray(place.rows.mask).reshape(B * G, R).astype(np.int64)
    flat = {"old_per_token_logps": place.old, "ref_per_token_logps": place.reference}
    arrays = {"prompt_ids": prompt, "prompt_mask": mask, "completion_ids": np.asarray(place.rows.answers).reshape(B * G, R).astype(np.int64),
              "completion_mask": real, "advantages": place.advantages.reshape(-1)}  # fmt: skip
    return {name: torch.tensor(x) for name, x in (arrays | {name: x.reshape(B * G, R) for name, x in flat.items()}).items()}


@pytest.mark.parametrize(("aggregate", "ratio", "entropy", "unbiased"), [
    ("tokens", "token", 0.0, False), ("answers", "token", 0.0, True), ("constant", "token", 0.02, True), ("answers", "sequence", 0.0, False),
    ("tokens", "sequence", 0.0, True),
])  # fmt: skip
def test_the_loss_of_grpo(aggregate: str, ratio: str, entropy: float, unbiased: bool, place: SimpleNamespace, tmp_path: Path) -> None:
    wanted = Objective(kl=0.04, clip_low=0.2, clip_high=0.28, aggregate=aggregate, ratio=ratio, entropy=entropy, kl_unbiased=unbiased)
    theirs = trainer(place, tmp_path, wanted)
    value = theirs._compute_loss(theirs.model, their_inputs(place))
    value.backward()
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=(1, 5))
    (ours, metrics), slopes = step(place.params, place.config, place.rows, Before(place.old, place.reference), place.advantages, wanted)
    np.testing.assert_allclose(ours, value.item(), rtol=1e-5, atol=1e-6)
    found = {name: np.asarray(x) for name, x in hf.to_hf(jax.device_get(slopes), place.config).items()}
    named = {name: parameter.grad.numpy() for name, parameter in theirs.model.named_parameters()}
    close(found, {name: named[name] for name in found}, 1e-5)
    said = theirs._metrics["eval"]
    assert metrics["clip_ratio/region_mean"] > 0.05
    for name in ("kl", "entropy", "clip_ratio/region_mean", "clip_ratio/low_mean", "clip_ratio/high_mean"):
        assert np.isclose(metrics[name], said[name][-1], rtol=1e-4), name
