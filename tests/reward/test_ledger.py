"""Ledgers: what is written is read back, conditions hold for the rows that come, and `promedical ledger` prints and writes them."""

import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.reward import ledger
from promedical_jax.reward.ledger import criterion_rows, print_rows, read_ledger, write_ledger
from promedical_jax.rubric import Criterion, Polarity, Tier, Verdict

FORMATS = [".jsonl", ".parquet"]
many = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.floats(-100, 100) | st.sampled_from([0.0, 0.5, 1e-6])
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["safety", "true", "1", "ü\u2028", "\r\n", "null"])


def row(case: str, step: int = 1, probability: float = 0.5, satisfied: float | None = None, finished: bool = True, **more: Any) -> dict[str, Any]:
    return {"case": case, "step": step, "probability": probability, "satisfied": satisfied, "finished": finished} | more


rows = st.lists(st.builds(row, words, st.integers(-9, 9), numbers, st.none() | numbers, st.booleans()), max_size=12)


ROWS = [
    row("a", tier="safety", probability=0.95, satisfied=0.0), row("b", tier="safety", probability=0.2, finished=False),
    row("c", tier="excellence", probability=0.9, satisfied=1.0, step=12), row("d", tier="proficiency", probability=-1e-3, satisfied=1.0, step=-2),
]  # fmt: skip


def found(path: Path, *where: str) -> str:
    """The names of the cases for which these conditions hold."""
    return "".join(row["case"] for row in read_ledger(path, where))


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"ledger{request.param}"
    assert write_ledger(path, ROWS) == len(ROWS)
    return path


def test_a_row_says_what_the_model_said_of_a_criterion() -> None:
    criteria = [Criterion(id="c0", text="C.", tier=Tier.PROFICIENCY, weight=1.0), Criterion(id="c1", text="D.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN),
                Criterion(id="c2", text="E.", tier=Tier.EXCELLENCE)]  # fmt: skip
    verdicts = [Verdict.MET, Verdict.MET, Verdict.ABSTAIN]
    made = criterion_rows(criteria, np.array([1.0, 2.0, -0.25], np.float32), np.array([0.75, 1 / 3, 0.5]), verdicts, "hash")
    about = [tuple(made[0]), *(tuple(row.values()) for row in made)]
    assert about == [
        ("criterion", "tier", "polarity", "score", "probability", "verdict", "satisfied", "model"),
        ("c0", "proficiency", "required", 1.0, 0.75, "met", 1.0, "hash"),
        ("c1", "safety", "forbidden", 2.0, 0.333333, "met", 0.0, "hash"),
        ("c2", "excellence", "required", -0.25, 0.5, "abstain", None, "hash"),
    ]
    json.dumps(made, allow_nan=False)


# Files


@pytest.mark.parametrize("suffix", FORMATS)
@many
@given(rows=rows)
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "new" / f"ledger{suffix}"
    assert write_ledger(path, iter(rows)) == len(rows)
    back = list(read_ledger(path))
    assert back == rows and [list(row) for row in back] == [list(row) for row in rows]
    assert [[type(value) for value in row.values()] for row in back] == [[type(value) for value in row.values()] for row in rows]
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_more_rows_than_a_batch_holds(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every batch but the first some `satisfied` is a number: what the first says of its columns holds for all."""
    monkeypatch.setattr(ledger, "BATCH", 3)
    path, rows = tmp_path / f"ledger{suffix}", [row(f"{i}", step=i, satisfied=None if i < 4 else i / 2) for i in range(10)]
    taken: list[int] = []

    def given() -> Any:
        for i, one in enumerate(rows):
            taken.append(i)
            yield one

    assert write_ledger(path, given()) == 10 and taken == list(range(10))
    assert list(read_ledger(path)) == rows
    assert found(path, "step>=3", "satisfied!=4") == "3" + "4567" + "9"


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_ledger_is_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ledger{suffix}"
    assert write_ledger(path, []) == 0
    assert list(read_ledger(path)) == list(read_ledger(path, ["tier=safety"])) == []


def test_a_failure_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()

    def failing() -> Any:
        yield ROWS[0]
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_ledger(path, failing())
    assert path.read_bytes() == before and [other.name for other in path.parent.iterdir()] == [path.name]


def test_rows_that_are_not_alike_are_no_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that came later would be left out without a word."""
    monkeypatch.setattr(ledger, "BATCH", 2)
    two = [row("a"), row("b")]
    for rows, sentence in (
        ([*two, row("c", reward=1.0)], "row 3: its columns are case, step, probability, satisfied, finished, reward, and before case, step"),
        ([two[0], {"case": "b"}], "row 2: its columns are case, and before"),
        ([row("a", reward=1.0), row("b", reward="much")], "row 2: reward is 'much', and other rows have a number there; write .jsonl"),
        ([*two, row("c", step=0.5)], "row 3: step is 0.5, and other rows have a whole number there; write .jsonl"),
        ([*two, row("c", step=True)], "row 3: step is True"),
    ):
        with pytest.raises(InputError, match=sentence):
            write_ledger(tmp_path / "ledger.parquet", rows)
        assert not list(tmp_path.iterdir())
        write_ledger(tmp_path / "ledger.jsonl", rows)
        assert list(read_ledger(tmp_path / "ledger.jsonl")) == rows
        (tmp_path / "ledger.jsonl").unlink()


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("none.jsonl", None, "none.jsonl does not exist"),
    ("x.csv", b"a,b", "x.csv has the suffix '.csv'; a ledger's name ends in .jsonl or .parquet"),
    ("x.parquet", b"junk", "x.parquet is not a readable Parquet file"),
    ("x.jsonl", b'{"case": "a"}\n{"case": ', "x.jsonl, line 2: not valid JSON"),
    ("x.jsonl", b'{"case": "a"}\n\n', "x.jsonl, line 2: not valid JSON"),
    ("x.jsonl", b'{"case": NaN}', "x.jsonl, line 1: not valid JSON"),
    ("x.jsonl", b'{"case": "\xff"}', "x.jsonl, line 1: not valid JSON"),
    ("x.jsonl", b"3", "x.jsonl, row 1: is no row of a ledger"),
    ("x.jsonl", b'{"id": "a", "answers": []}', "x.jsonl, row 1: is no row of a ledger"),  # a file of cases
], ids=range(9))  # fmt: skip
def test_what_is_no_ledger_is_a_sentence(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_ledger(tmp_path / name))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_ledger_is_not_written_to_a_name_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has the suffix '\.csv'"):
        write_ledger(tmp_path / "ledger.csv", ROWS)
    assert not list(tmp_path.iterdir())


# Conditions


@pytest.mark.parametrize(("where", "cases"), [
    ([], "abcd"), (["tier=safety"], "ab"), (["tier!=safety"], "cd"), (["tier=safety", "finished=true"], "a"),
    (["probability>0.9"], "a"), (["probability>=0.9"], "ac"), (["probability<=0.2"], "bd"), (["probability<0.2"], "d"), (["probability=.9"], "c"),
    (["probability!=9e-1"], "abd"), (["step=12"], "c"), (["step=12.0"], "c"), (["step<1"], "d"), (["step>-2"], "abc"), (["step>-inf"], "abcd"),
    (["satisfied=null"], "b"), (["satisfied!=null"], "acd"), (["satisfied=1"], "cd"), (["satisfied!=1"], "ab"), (["satisfied<0.5"], "a"),
    (["satisfied>=0"], "acd"), (["finished=false"], "b"), (["finished!=false"], "acd"), (["finished==true"], "acd"), (["case>b"], "cd"), (["case<=b"], "ab"),
    (["  tier  =  safety  "], "ab"), (["tier=saf"], ""), (["tier==safety"], "ab"), (["tier!==safety"], "abcd"),
], ids=str)  # fmt: skip
def test_the_rows_for_which_all_conditions_hold(where: list[str], cases: str, path: Path) -> None:
    assert found(path, *where) == cases


@many
@given(rows=rows, sign=st.sampled_from(["=", "!=", ">", ">=", "<", "<="]), column=st.sampled_from(["step", "probability", "satisfied"]), data=st.data())
def test_numbers_compare_as_numbers(tmp_path: Path, rows: list[dict[str, Any]], sign: str, column: str, data: st.DataObject) -> None:
    value = data.draw(st.sampled_from([row[column] for row in rows if row[column] is not None] or [0.5]) | numbers)
    compare = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}[sign]
    holds = [row for row in rows if (sign == "!=" if row[column] is None else compare(row[column], value))]
    write_ledger(tmp_path / "ledger.jsonl", rows)
    assert list(read_ledger(tmp_path / "ledger.jsonl", [f"{column}{sign}{value!r}"])) == holds


@pytest.mark.parametrize(("where", "sentence"), [
    ("tier", "--where 'tier': is no condition; write a column, a sign"),
    ("=safety", "is no condition"),
    ("tier=", "is no condition"),
    ("tier:safety", "is no condition"),
    ("tier in (safety)", "is no condition"),
    ("", "is no condition"),
    ("teir=safety", "row 1: has no column 'teir'; its columns are case, step, probability"),
    ("probability>high", "--where probability>high: probability holds numbers, and 'high' is none"),
    ("probability=>0.9", "probability holds numbers, and '>0.9' is none"),
    ("probability!=nan", "probability holds numbers, and 'nan' is none"),
    ("step=1,2", "step holds numbers, and '1,2' is none"),
    ("satisfied>null", "--where satisfied>null: null is neither above nor below anything; write = or !="),
    ("finished=yes", "--where finished=yes: finished is true or false; write finished=true or finished=false"),
    ("finished>false", "finished is true or false"),
])  # fmt: skip
def test_a_condition_that_is_none_is_a_sentence(where: str, sentence: str, path: Path) -> None:
    with pytest.raises(InputError) as caught:
        list(read_ledger(path, [where]))
    assert sentence in str(caught.value)


# Printing


def printed(rows: Sequence[dict[str, Any]], show: int = 20) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        print_rows(rows, show, console)
    return capture.get()


def test_rows_are_printed_with_their_number() -> None:
    said = printed([one | {"model": "0123456789abcdef"} for one in ROWS], show=2)
    lines = [line.split() for line in said.splitlines() if line.strip()]
    assert lines[0] == ["case", "step", "probability", "satisfied", "finished", "tier", "model"]
    assert lines[2:] == [["a", "1", "0.95", "0.0", "True", "safety", "0123456789ab"], ["b", "1", "0.2", "–", "False", "safety", "0123456789ab"],
                         ["4", "rows,", "2", "of", "them", "shown"]]  # fmt: skip
    assert printed([]) == "0 rows\n" and printed(ROWS[:1]).endswith("\n1 row\n") and printed(ROWS, show=0) == "4 rows, 0 of them shown\n"


def test_what_looks_like_markup_is_printed_as_it_is() -> None:
    said = printed([row("[bold]x[/red]", answer=":tea: [a]", **{"col[b]": 1}), {"case": "other columns"}])
    assert all(text in said for text in ("[bold]x[/red]", ":tea: [a]", "col[b]", "other columns"))


# The command


def run(*arguments: object) -> int:
    return main(["ledger", *(str(argument) for argument in arguments)])


def test_the_command_prints_what_it_finds(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "--where", "tier=safety", "--where", "probability>0.9") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 row"
    assert run(path, "--where", "tier=nothing") == 0
    assert capsys.readouterr().out == "0 rows\n"
    assert run(path, "--show", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 rows, 1 of them shown"


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_command_writes_what_it_finds(suffix: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = path.parent / "new" / f"found{suffix}"
    assert run(path, "--where", "satisfied!=null", "--out", out) == 0
    assert capsys.readouterr().out == f"wrote {out}: 3 rows\n"
    assert list(read_ledger(out)) == [ROWS[0], *ROWS[2:]]
    before = out.read_bytes()
    assert run(path, "--out", out) == 2
    assert "exists; give --force to replace it, or another --out" in capsys.readouterr().err and out.read_bytes() == before
    assert run(path, "--where", "tier=safety", "--out", out, "--force") == 0
    assert found(out) == "ab"
    assert run(path, "--where", "tier=safety", "--out", path, "--force") == 0  # into itself
    assert found(path) == "ab"


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--where", "tier"], "is no condition"),
    (["--where", "teir=safety"], "has no column 'teir'"),
    (["--show", "-1"], "must be >= 0"),
    (["--out", "found.csv"], "has the suffix '.csv'"),
], ids=str)  # fmt: skip
def test_the_command_refuses_with_a_sentence(arguments: list[str], sentence: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and sentence in said.err
    assert [other.name for other in path.parent.iterdir()] == [path.name] and not Path("found.csv").exists()
