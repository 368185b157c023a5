"""The check at first use: it passes where trees are computed rightly, says what is wrong where they are not, and then no stage writes anything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from folders import save_policy, save_reward_model
from tiny import CONFIG, policy, reward_params

from promedical_jax import selfcheck
from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import UNCALIBRATED, RewardModel
from promedical_jax.rubric import write_cases
from promedical_jax.selfcheck import check_tree


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests saw pass does not count here."""
    monkeypatch.setattr(selfcheck, "_passed", set())


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_it_passes_once_in_a_process(dtype, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    check = lambda **what: check_tree("the model", policy(), CONFIG, Compute(dtype), **what)  # noqa: E731
    check(trains=True, samples=True)
    said = capsys.readouterr().err
    assert said.startswith("tree check of the model: ") and said.endswith(f" of {selfcheck.BOUNDS[dtype]:.0e} allowed\n") and said.count("\n") == 1
    assert 0 < float(said.split()[5]) < selfcheck.BOUNDS[dtype] / 2  # the bound has room
    for figures in ("_gradients", "_states", "_log_probs"):
        monkeypatch.setattr(getattr(selfcheck, figures), "__code__", (lambda *_: pytest.fail("it checks again")).__code__)
    check(trains=True)
    check(samples=True)
    check()
    assert not capsys.readouterr().err


def test_it_passes_on_a_mesh() -> None:
    """The whole runs of test_runs.py stand on others."""
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        check_tree("the model", jax.device_put(policy(), shardings(mesh, transformer.axes(CONFIG))), CONFIG, trains=True, packs=True, samples=True)


# What is broken


def of_trees(attention: Callable[..., jax.Array], patch: pytest.MonkeyPatch) -> None:
    """Another attention where rows hold trees, beside the true one for flat rows."""
    true = transformer.attend
    patch.setattr(transformer, "attend", lambda *given: (true if len(given[-1].levels) == 1 else attention)(*given))


def siblings_see_one_another(patch: pytest.MonkeyPatch) -> None:
    def attend(q, k, v, batch, layout):
        seen = jnp.tril(jnp.ones((layout.tokens, layout.tokens), bool)) & batch.valid[:, None]
        scores = jnp.where(seen[:, None, None], jnp.einsum("btkqh,bskh->bkqts", q, k) * q.shape[-1] ** -0.5, -1e30)
        return jnp.einsum("bkqts,bskh->btkqh", jax.nn.softmax(scores.astype(jnp.float32), -1).astype(v.dtype), v)

    of_trees(attend, patch)


def positions_run_on(patch: pytest.MonkeyPatch) -> None:
    assemble = selfcheck.assemble

    def run_on(layout, *given):
        batch = assemble(layout, *given)
        return batch if len(layout.levels) == 1 else batch._replace(positions=jnp.arange(layout.tokens) + 0 * batch.positions)

    patch.setattr(selfcheck, "assemble", run_on)


def gradients_stop_at_ancestors(patch: pytest.MonkeyPatch) -> None:
    attend = transformer.attend

    def stopped(x, layout):
        return jnp.where((jnp.arange(layout.tokens) < layout.levels[0].length)[:, None, None], jax.lax.stop_gradient(x), x)

    of_trees(lambda q, k, v, batch, layout: attend(q, stopped(k, layout), stopped(v, layout), batch, layout), patch)


def numbers_are_lost(patch: pytest.MonkeyPatch) -> None:
    of_trees(lambda q, *_: q * jnp.nan, patch)


def the_sampler_reads_old_weights(patch: pytest.MonkeyPatch) -> None:
    sample = selfcheck.sample
    patch.setattr(selfcheck, "sample", lambda params, *given, **named: sample(policy(seed=1), *given, **named))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (siblings_see_one_another, "hidden states are"),
        (positions_run_on, "hidden states are"),
        (gradients_stop_at_ancestors, "gradients are"),
        (numbers_are_lost, "hidden states are inf"),
        (the_sampler_reads_old_weights, "the sampler's log-probs are"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_it_refuses_what_is_broken(broken: Callable, what: str, dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(InputError) as error:
        check_tree("the policy", policy(), CONFIG, Compute(dtype), trains="sampler" not in what, samples="sampler" in what)
    said = str(error.value)
    assert said.startswith(f"tree check of the policy: {what}") and "\n" not in said
    assert f"{dtype} on cpu, jax {jax.__version__}" in said and f"{selfcheck.BOUNDS[dtype]:.0e} is allowed" in said
    assert ("try --dtype float32" if dtype == "bfloat16" else "try another version of jax") in said


# What a stage does then



@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, tokenizer = tmp_path_factory.mktemp("selfcheck"), build_tokenizer()
    model = replace(CONFIG, vocabulary=len(tokenizer))
    write_cases(root / "cases.jsonl", make_cases(16, seed=0, answers=2))
    save_policy(root / "policy", policy(model), model, tokenizer)
    save_reward_model(root / "judge", RewardModel(reward_params(model), model, UNCALIBRATED), tokenizer)
    return root


COMMANDS = {
    "sft": ["train", "sft", "--model", "{}/policy", "--batch", "8"],
    "rm": ["train", "rm", "--model", "{}/policy", "--batch", "8", "--held_out_share", "0.2"],
    "grpo": ["train", "grpo", "--model", "{}/policy", "--batch", "8", "--reward_model", "{}/judge", "--answers", "2", "--answer_tokens", "4"],
    "bench of a policy": ["bench", "{}/policy", "--answer_tokens", "4"],
    "bench of a reward model": ["bench", "{}/judge"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_stage_stops_before_it_writes(command: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    numbers_are_lost(monkeypatch)
    out = tmp_path / "out"
    assert main([text.format(folder) for text in (*command, "--cases", "{}/cases.jsonl", "--out", str(out))]) == 2
    assert "error: tree check of the " in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.iterdir())
