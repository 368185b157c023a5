"""The doctor passes what is well, and names what is planted: each check fails on a fault of its own, and on no other."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from faulty import prepare, recipe
from folders import save_policy
from tiny import CONFIG, policy

from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.config import Keep, Lora
from promedical_jax.data.encode import encode, measure, stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.doctor import before, machine, numbers, texts
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import Compute
from promedical_jax.train import examine as examined
from promedical_jax.train.examine import examine
from promedical_jax.train.stage import prepare as prepared

ALL = ["devices", "memory", "disk", "chat template", "end of a turn", "group ids", "scored position", "tree against flat", "sampler against trainer",
       "batch invariance", "checkpoint"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("doctor"))


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    return [encode(case, build_tokenizer()) for case in make_cases(6, seed=1, answers=2)]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_all_is_well_with_the_clinic(stage: str, root: Path) -> None:
    found = examine(recipe(root, stage, "new/run"))
    idle = {"scored position", "sampler against trainer"} if stage == "sft" else set()
    assert [one.check for one in found] == ALL and {one.check for one in found if one.outcome == "not applicable"} == idle
    assert all(one.outcome == "passed" for one in found if one.check not in idle)
    assert not (root / "new").exists()  # nothing is left behind


def test_a_command_says_a_line_a_check_and_what_to_mend(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from promedical_jax.cli import main
    from promedical_jax.recipe import dump

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    (root / "sft.yaml").write_text(dump(recipe(root, "sft", "run")))
    assert main(["doctor", "sft", "--config", str(root / "sft.yaml")]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if line.strip()]
    assert [name for name in ALL if any(line.strip().startswith(name) for line in lines)] == ALL
    assert "of 0.00 GiB free" in said.out and "free space, choose another --out" in said.out
    assert "1 of 11 checks failed: disk; mend what their lines say" in said.err


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_before_a_training_a_fault_ends_it_with_a_sentence_and_a_recipe_may_leave_that_out(stage: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    config = recipe(root, stage, "run")
    with pytest.raises(InputError, match=r"disk: .*choose another --out.*\(doctor: false in the recipe leaves such checks out\)"):
        prepared(config)
    assert prepared(config.model_copy(update={"doctor": False})).cases and not config.out.exists()


# Texts


class Wrong:
    """A tokenizer with something changed."""

    def __init__(self, inner: Any, **changed: Any):
        self._inner, self._changed = inner, changed

    def __getattr__(self, name: str) -> Any:
        return self._changed[name] if name in self._changed else getattr(self._inner, name)


def test_an_answer_that_does_not_come_back_is_named() -> None:
    right = build_tokenizer()
    lower = Wrong(right, decode=lambda tokens, **more: right.decode(tokens, **more).lower())
    with pytest.raises(InputError, match=r"'Take 20 mg, twice daily\.' comes back from its tokens as 'take 20 mg"):
        texts.template_round_trip(lower)


TEMPLATE = """{{% for m in messages %}}{{{{ '<|im_start|>' + m['role'] + '\\n' + {content} + '<|im_end|>\\n' }}}}{{% endfor %}}\
{{% if add_generation_prompt %}}{{{{ '<|im_start|>{role}\\n' }}}}{{% endif %}}"""


@pytest.mark.parametrize(("content", "role", "words"), [
    ("m['content']", "doctor", r"goes 'assistant\\nTake.* where the instruction alone goes 'doctor"),
    ("m['content'][:8]", "assistant", "the answer 'Take 20 mg, twice daily.' is written as 'Take 20 "),
])  # fmt: skip
def test_a_template_that_tells_answers_otherwise_is_named(content: str, role: str, words: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE.format(content=content, role=role)
    with pytest.raises(InputError, match=words):
        texts.template_round_trip(tokenizer)
    assert "a turn ends" in texts.turn_end(build_tokenizer())


def test_an_end_that_the_template_does_not_write_is_named_and_one_that_also_pads_is_no_fault() -> None:
    wrong, both = build_tokenizer(), build_tokenizer()
    wrong.eos_token = "<|pad|>"
    with pytest.raises(InputError, match=r"eos token is '<\|pad\|>', and the chat template ends a turn with '<\|im_end\|>'"):
        texts.turn_end(wrong)
    both.pad_token = both.eos_token
    assert "which also pads" in texts.turn_end(both)
    both.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        texts.turn_end(both)


def test_the_qwen3_tokenizer_is_well(data: Path) -> None:
    tokenizer = load_tokenizer(data / "tokenizer", 151_936)
    assert "as they were" in texts.template_round_trip(tokenizer) and texts.turn_end(tokenizer).startswith("a turn ends with <|im_end|>")


# Batches


def test_a_score_that_would_be_read_elsewhere_is_named(cases: list[Any]) -> None:
    from promedical_jax.config import Shapes

    stop, sizes = stop_token(build_tokenizer()), measure(cases, Shapes(), "cases")
    count = sum(len(case.criteria) for case in cases)
    assert texts.scored_position(cases, sizes, stop, "explicit").startswith(f"{count} scores of 6 cases")
    assert texts.scored_position(cases, sizes, stop, "blind").startswith("12 scores of 6 cases")
    cut = [*cases[:3], replace(cases[3], criteria=[cases[3].criteria[0][:-1], *cases[3].criteria[1:]]), *cases[4:]]
    with pytest.raises(InputError, match=f"case '{cases[3].case.id}': a score would be read at a token that does not end its criterion"):
        texts.scored_position(cut, sizes, stop, "explicit")


def test_cases_that_would_be_sampled_alike_or_lose_their_answers_are_named(cases: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from promedical_jax.config import Shapes

    sizes = measure(cases, Shapes(), "cases")
    assert texts.groups(cases, sizes).startswith("6 cases keep")
    with pytest.raises(InputError, match="have the same number, and would be sampled alike"):
        texts.groups([*cases, cases[2]], sizes)
    right = texts.to_arrays

    def shuffled(case: Any, sizes: Any) -> dict[str, Any]:
        other = cases[(cases.index(case) + 1) % len(cases)]
        return right(other, sizes) | {"case": right(case, sizes)["case"]}

    monkeypatch.setattr(texts, "to_arrays", shuffled)
    with pytest.raises(InputError, match=f"case '{cases[0].case.id}': its row of a batch holds other tokens"):
        texts.groups(cases, sizes)


# Numbers


def test_company_changes_nothing_and_a_model_in_which_it_does_is_named(cases: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, right = replace(CONFIG, vocabulary=512), numbers.transformer.forward
    one = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(one):
        assert "differs by" in numbers.batch_invariance(policy(config), config, Compute(), one, cases)

        def leaking(params: Any, config: Any, batch: Any, layout: Any, compute: Any) -> jax.Array:
            hidden = right(params, config, batch, layout, compute)
            return hidden + 0.01 * hidden.mean(0, keepdims=True)

        monkeypatch.setattr(numbers.transformer, "forward", leaking)
        jax.clear_caches()
        with pytest.raises(InputError, match="what a case teaches would depend on who is beside it"):
            numbers.batch_invariance(policy(config), config, Compute(), one, cases)


@pytest.mark.parametrize(("check", "samples"), [("tree against flat", False), ("sampler against trainer", True)])
def test_a_tree_or_a_sampler_that_errs_is_a_line_of_the_report(check: str, samples: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes them err is tested where they are."""

    def broken(name: str, *_: Any, **how: Any) -> None:
        if bool(how.get("samples")) is samples:
            raise InputError(f"tree check of {name}: far away")

    monkeypatch.setattr(examined, "check_tree", broken)
    with pytest.raises(InputError, match=f"1 of 11 checks failed: {check}"):
        examine(recipe(root, "grpo", "run"))


# Machine


def test_what_is_needed_is_what_a_state_takes(root: Path) -> None:
    tokenizer = build_tokenizer()
    model = replace(CONFIG, vocabulary=len(tokenizer))
    count = sum(x.size for x in jax.tree.leaves(policy(model)))
    assert machine.need(recipe(root, "sft", "run"), model) == (0, 12 * count, 4 * count)
    assert machine.need(recipe(root, "sft", "run", weights="bfloat16"), model) == (0, 14 * count, 4 * count)
    frozen, trained, _ = machine.need(recipe(root, "sft", "run", lora=Lora(rank=2)), model)
    assert frozen == 4 * count and 0 < trained < 12 * count / 5


def test_too_little_memory_or_disk_says_what_would_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = machine.Need(0, 12 * 2**30, 4 * 2**30)
    monkeypatch.setattr(machine, "_host_memory", lambda: 8 * 2**30)
    with pytest.raises(InputError, match=r"take 12.00 of 8.00 GiB of this machine; train adapters"):
        machine.memory(wanted, 1)
    monkeypatch.setattr(machine, "_host_memory", lambda: None)
    with pytest.raises(machine.NotApplicable):
        machine.memory(wanted, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60 * 2**30))
    config = recipe(root, "sft", "run").model_copy(update={"keep": Keep(last=2, best=1)})
    assert "4 checkpoints and the model take up to 52.00 of 60.00 GiB" in machine.disk(config, wanted)
    with pytest.raises(InputError, match=r"up to 112.00 of 60.00 GiB"):
        machine.disk(config.model_copy(update={"keep": Keep(every=2, last=2, best=1)}), wanted)


def test_a_mesh_that_there_is_not_and_a_folder_that_takes_nothing(root: Path) -> None:
    from promedical_jax.config import Mesh

    with pytest.raises(InputError, match="choose factors of 8"):
        examine(recipe(root, "sft", "run", mesh=Mesh(fsdp=3)))
    (root / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file.*see to its permissions"):
        examined._checkpoint(root / "file" / "run")
    with pytest.raises(InputError, match="checks failed: checkpoint"):
        examine(recipe(root, "sft", "file/run"))


def test_what_is_cheap_is_looked_at_in_few_cases(root: Path, cases: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(before, "findings", lambda config, mesh, model, tokenizer, cases: seen.append(len(cases)) or [])
    before.check(recipe(root, "sft", "run"), make_mesh(), CONFIG, build_tokenizer(), cases * 40)
    assert seen == [before.LOOKED_AT]


def test_a_model_folder_with_the_wrong_end_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    model = replace(CONFIG, vocabulary=len(tokenizer))
    save_policy(tmp_path / "policy", policy(model), model, tokenizer)
    config = recipe(root, "sft", "run", model=tmp_path / "policy")
    with pytest.raises(InputError, match="end of a turn: the tokenizer's eos token is"):
        prepared(config)
    assert not config.out.exists()
