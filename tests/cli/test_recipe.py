"""Recipes: files and flags become one checked config, and every fault is one sentence that names the place and the fix."""

import math
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from promedical_jax.config import GrpoConfig, QuickstartConfig, RmConfig, SftConfig
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump, keys, read_recipe, suggestion


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Settings):
    """How to step."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    final: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="what is left")


class Reward(Settings):
    beta: float = 0.3
    penalty: float = 2.0

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.penalty <= 1 + self.beta:
            raise ValueError("penalty must be greater than 1 + beta; raise it")
        return self


class Schema(Settings):
    """A schema that has every kind of key."""

    out: Path
    name: str = "run"
    steps: Annotated[int, Field(gt=0)] = 100
    limit: Annotated[int, Field(gt=0)] | None = None
    held_out: Path | None = None
    resample: bool = False
    kind: Literal["lexicographic", "scalar"] = "lexicographic"
    tags: tuple[str, ...] = ()
    optimizer: Optimizer = Optimizer(final=0.5)
    reward: Reward = Reward()


def read(text: str = "out: runs/a", **flags: str) -> Schema:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.yaml"
        file.write_text(text, encoding="utf-8")
        return read_recipe(Schema, file, {name.replace("__", "."): value for name, value in flags.items()})


def fault(text: str = "out: runs/a", **flags: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text, **flags)
    return str(caught.value).rsplit("/", 1)[-1] if "x.yaml" in str(caught.value) else str(caught.value)


def test_a_file_and_flags_are_laid_over_the_defaults() -> None:
    config = read("out: runs/a\nsteps: 5\noptimizer:\n  learning_rate: 1e-3", steps="7", reward__penalty="3", limit="null")
    assert config == Schema(out=Path("runs/a"), steps=7, optimizer=Optimizer(learning_rate=1e-3, final=0.5), reward=Reward(penalty=3))


def test_keys_left_out_of_a_group_keep_the_default_of_this_schema_and_not_of_the_group() -> None:
    assert read("out: a\noptimizer: {learning_rate: 1}").optimizer.final == 0.5
    assert read("out: a", optimizer__learning_rate="1").optimizer.final == 0.5


@pytest.mark.parametrize("text", ["out: a\noptimizer:", "out: a\noptimizer:\n  # learning_rate: 1", "out: a\noptimizer: {}"])
def test_a_group_with_nothing_in_it_is_all_defaults(text: str) -> None:
    assert read(text) == Schema(out=Path("a"))


def test_without_a_file_flags_alone_make_a_config() -> None:
    assert read_recipe(Schema, None, {"out": "a"}) == Schema(out=Path("a"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimizer: {learnig_rate: 1}", "x.yaml: unknown key 'optimizer.learnig_rate'; did you mean 'optimizer.learning_rate'?"),
        ("learning_rate: 1", "x.yaml: unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        ("optimiser: {final: 1}", "x.yaml: unknown key 'optimiser'; did you mean 'optimizer'?"),
        ("held-out: a", "x.yaml: unknown key 'held-out'; did you mean 'held_out'?"),
        ("zzzz: 1", "x.yaml: unknown key 'zzzz'; --help lists the known ones"),
        ("1: 2", "x.yaml: unknown key '1'; --help lists the known ones"),
        ("out: a\nsteps: 1\nout: b", "x.yaml, line 3: key 'out' is already given on line 1; keep one of them"),
        ("optimizer:\n  final: 0\n  final: 0", "x.yaml, line 3: key 'final' is already given on line 2; keep one of them"),
        ("out: a\nsteps: many", "x.yaml: key 'steps' is 'many'; allowed: integer > 0"),
        ("out: a\nsteps: 0", "x.yaml: key 'steps' is 0; allowed: integer > 0"),
        ("out: a\nsteps: yes", "x.yaml: key 'steps' is true; allowed: integer > 0"),
        ("out: a\nsteps: null", "x.yaml: key 'steps' is null; allowed: integer > 0"),
        ("out: a\nlimit: -1", "x.yaml: key 'limit' is -1; allowed: integer > 0, or null"),
        ("out: a\nkind: lexical", "x.yaml: key 'kind' is 'lexical'; allowed: lexicographic | scalar"),
        ("out: a\nkind: off", "x.yaml: key 'kind' is false; allowed: lexicographic | scalar"),
        ("out: a\nresample: 3", "x.yaml: key 'resample' is 3; allowed: true or false"),
        ("out: 7", "x.yaml: key 'out' is 7; allowed: path; put it in quotes"),
        ("out: a\nname: 7", "x.yaml: key 'name' is 7; allowed: text; put it in quotes"),
        ("out: a\noptimizer: {final: 1}", "x.yaml: key 'optimizer.final' is 1; allowed: number >= 0 and < 1"),
        ("out: a\noptimizer: {learning_rate: .inf}", "x.yaml: key 'optimizer.learning_rate' is inf; allowed: finite number > 0"),
        ("out: a\noptimizer: 4", "x.yaml: key 'optimizer' is 4 and must be a group of keys; write them below it, such as 'learning_rate: ...'"),
        ("out: a\ntags: {a: 1}", "x.yaml: key 'tags' is {'a': 1}; allowed: list of text"),
        ("out: a\nreward: {penalty: 1}", "x.yaml: key 'reward': penalty must be greater than 1 + beta; raise it"),
        ("steps: 0", "x.yaml: key 'steps' is 0; allowed: integer > 0 (1 more fault)"),
        ("steps: 1", "key out is missing; give --out, or a recipe that has it by --config"),
        ("", "key out is missing; give --out, or a recipe that has it by --config"),
        ("5", "x.yaml: holds 5 and must hold 'key: value' lines; `--print-config` prints a recipe to start from"),
        ("a: [", "x.yaml, line 1: not valid YAML (expected the node content, but found '<stream end>'); mend the line"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_in_one_sentence(text: str, sentence: str) -> None:
    assert fault(text) == sentence


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("steps", "x", "--steps is 'x'; allowed: integer > 0"),
        ("steps", "true", "--steps is 'true'; allowed: integer > 0"),
        ("steps", "null", "--steps is 'null'; allowed: integer > 0"),
        ("out", "", "--out is empty; allowed: path"),
        ("tags", "[a", "--tags is '[a', which is not valid YAML; allowed: list of text, such as [a, b]"),
        ("tags", "a", "--tags is 'a'; allowed: list of text"),
        ("reward.penalty", "1", "--reward.penalty: penalty must be greater than 1 + beta; raise it"),
        ("optimizer.learnig_rate", "1", "unknown flag '--optimizer.learnig_rate'; did you mean '--optimizer.learning_rate'?"),
        ("optimizer", "1", "unknown flag '--optimizer'; it is a group, give --optimizer.learning_rate or --optimizer.final"),
    ],
)
def test_what_is_wrong_in_a_flag_is_named_in_one_sentence(flag: str, value: str, sentence: str) -> None:
    assert fault(**{flag: value}) == sentence


def test_a_flag_mends_what_the_file_has_wrong() -> None:
    assert read("out: a\nsteps: many", steps="3").steps == 3


def test_flags_of_lists_are_yaml_and_flags_of_texts_are_verbatim() -> None:
    config = read(tags="[a, b c]", name="null", held_out="123", resample="true")
    assert (config.tags, config.name, config.held_out, config.resample) == (("a", "b c"), "null", Path("123"), True)


def test_missing_keys_are_named_together() -> None:
    with pytest.raises(InputError, match=r"^keys out, cases, model are missing; give --out, --cases, --model, or a recipe that has them by --config$"):
        read_recipe(SftConfig)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.yaml: no such file; give --config"):
        read_recipe(Schema, tmp_path / "nope.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(Schema, tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"out: \xff\xfe")
    with pytest.raises(InputError, match="not valid YAML"):
        read_recipe(Schema, tmp_path / "x.yaml")


HOSTILE = ["[" * 5000, "a: &a {b: *a}", "steps: &a {b: *a}", "? {a: 1}\n: 2", "--- 1\n--- 2", "steps: 2024-99-99", "\x00", "!!python/name:os.system x"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_yaml_is_refused_and_nothing_else(text: str) -> None:
    assert fault(text)


@given(st.text(max_size=40))
def test_any_text_is_a_recipe_or_an_input_error(text: str) -> None:
    try:
        assert isinstance(read(text), Schema)
    except InputError as error:
        assert "\n" not in str(error)


@given(st.sampled_from([key.name for key in keys(Schema)]), st.text(max_size=12))
def test_any_flag_is_a_config_or_an_input_error(name: str, value: str) -> None:
    try:
        assert isinstance(read_recipe(Schema, None, {"out": "a", name: value}), Schema)
    except InputError as error:
        assert f"--{name}" in str(error)


unquoted_they_are_no_text = st.sampled_from(["1", "1e5", "null", "~", "yes", "2024-01-01", "0x1", "a: b", "#a", " a "])
often_changed = st.sampled_from(["é", "\x85", "\u2028", "\ufeff", "\r", "\U0001f600"])
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | unquoted_they_are_no_text | often_changed
paths = texts.filter(lambda text: "\0" not in text).map(Path)
numbers = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(
    st.builds(
        Schema, out=paths, name=texts, steps=st.integers(1), limit=st.none() | st.integers(1), held_out=st.none() | paths, resample=st.booleans(),
        kind=st.sampled_from(["lexicographic", "scalar"]), tags=st.lists(texts).map(tuple), optimizer=st.builds(Optimizer, learning_rate=numbers),
        reward=st.builds(Reward, penalty=st.floats(min_value=2)),
    )
)  # fmt: skip
@example(Schema(out=Path("é"), name="\x85"))
@example(Schema(out=Path("\ufeff"), name="\u2029\r\n", tags=("\ud800",)))
def test_a_config_is_dumped_to_yaml_that_reads_back_equal(config: Schema) -> None:
    text = dump(config)
    assert read(text) == config
    assert dump(read(text)) == text
    assert yaml.safe_load(text)["out"] == str(config.out)


def needed(schema: type[BaseModel]) -> dict[str, str]:
    """What a recipe must be given, and of those who may judge the answers one."""
    return {key.name: "here" for key in keys(schema) if key.default is None or key.name == "reward_model"}


@pytest.mark.parametrize("config", [SftConfig, RmConfig, GrpoConfig])
def test_the_real_recipes_read_back_equal(config: type[SftConfig], tmp_path: Path) -> None:
    chosen = read_recipe(config, None, needed(config) | {"optimizer.clip": "inf"})
    (tmp_path / "x.yaml").write_text(dump(chosen))
    assert read_recipe(config, tmp_path / "x.yaml") == chosen
    assert math.isinf(chosen.optimizer.clip)


def test_keys_know_their_types_bounds_defaults_and_groups() -> None:
    known = {key.name: key for key in keys(Schema)}
    leaves = ["optimizer.learning_rate", "optimizer.final", "reward.beta", "reward.penalty"]
    assert list(known) == ["out", "name", "steps", "limit", "held_out", "resample", "kind", "tags", *leaves]
    allowed = {"out": "path", "steps": "integer > 0", "limit": "integer > 0, or null", "resample": "true or false", "tags": "list of text"}
    assert {name: known[name].allowed for name in allowed} == allowed
    assert known["out"].default is None
    assert (known["optimizer.final"].default, known["optimizer.final"].description, known["optimizer.final"].group) == ("0.5", "what is left", "How to step.")


@pytest.mark.parametrize("schema", [SftConfig, RmConfig, GrpoConfig, QuickstartConfig])
def test_every_default_of_the_real_schemas_is_allowed_as_a_flag(schema: type[BaseModel]) -> None:
    given = needed(schema)
    expected = read_recipe(schema, None, given)
    assert read_recipe(schema, None, {key.name: key.default for key in keys(schema) if key.default is not None} | given) == expected


def test_suggestions_find_the_whole_path_then_the_last_part() -> None:
    known = ["steps", "mesh.tp", "optimizer.clip"]
    assert suggestion("step", known) == "did you mean 'steps'?"
    assert suggestion("model.clip", known, "--") == "did you mean '--optimizer.clip'?"
    assert suggestion("qqqq", known) == "--help lists the known ones"
