"""Cases that are longer than the sizes of a run: found, counted and listed, left out or cut, and never at a token where a score is read."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from promedical_jax.config import Long, Shapes
from promedical_jax.data.encode import Encoded
from promedical_jax.data.long import TooLong, check, cut, fit, sentence, too_long, write_list
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case
from promedical_jax.rubric.labels import unjudged

CASE = Case.model_validate({
    "id": "one",
    "instruction": [{"role": "user", "content": "?"}],
    "rubric": {"criteria": [{"id": "c", "text": "C.", "tier": "proficiency", "weight": 1.0}]},
})  # fmt: skip


def encoded(prompt: int, answers: list[int], criteria: list[int], name: str = "one") -> Encoded:
    """Of nodes of the given lengths, each token another number."""
    numbers = iter(range(10_000))
    rows = [[next(numbers) for _ in range(n)] for n in (prompt, *answers, *criteria)]
    case = CASE.model_copy(update={"id": name})
    return Encoded(case, rows[0], rows[1 : 1 + len(answers)], rows[1 + len(answers) :], [0] * len(criteria), unjudged(len(answers), len(criteria)))


lengths = st.integers(1, 30)
limits = st.none() | st.integers(1, 40)
# A reward model that is told no criterion has criteria of no token.
trees = st.builds(encoded, lengths, st.lists(lengths, max_size=3), st.lists(lengths, min_size=1, max_size=3) | st.just([0, 0]))
shapes = st.builds(Shapes, prompt=limits, answer=limits, criterion=limits, path=st.none() | st.integers(4, 90))


def sizes(tree: Encoded) -> dict[str, int]:
    prompt, answer, criterion = len(tree.prompt), max(map(len, tree.answers), default=0), max(map(len, tree.criteria))
    return {"prompt": prompt, "answer": answer, "criterion": criterion, "path": prompt + answer + criterion}


def fits(tree: Encoded, shapes: Shapes) -> bool:
    return all(getattr(shapes, part) is None or size <= getattr(shapes, part) for part, size in sizes(tree).items())


def kept_of(row: list[int], before: list[int]) -> bool:
    """Whether it is what is left of `before` when some stretch is taken out."""
    return any(row == before[:n] + before[len(before) - (len(row) - n) :] for n in range(len(row) + 1))


# Finding


@given(trees, shapes)
def test_what_is_too_long_is_what_does_not_fit(tree: Encoded, shapes: Shapes) -> None:
    found = too_long(tree, shapes)
    assert (found is None) == fits(tree, shapes)
    if found:
        assert found.case == "one" and found.tokens == sizes(tree)[found.part] > found.limit == getattr(shapes, found.part)
        over = {part: size / getattr(shapes, part) for part, size in sizes(tree).items() if getattr(shapes, part)}
        assert found.tokens / found.limit == max(over.values())  # the part that is furthest over


# Cutting


@given(trees, shapes)
def test_what_is_cut_fits(tree: Encoded, shapes: Shapes) -> None:
    assert fits(cut(tree, shapes), shapes)


@given(trees, shapes)
def test_what_fits_is_untouched(tree: Encoded, shapes: Shapes) -> None:
    assume(fits(tree, shapes))
    assert cut(tree, shapes) == tree


@given(trees, shapes)
def test_scores_are_read_where_they_were(tree: Encoded, shapes: Shapes) -> None:
    """An answer and a criterion keep the token that ends their turn and lose what stands before it; there are as many as before, with the same labels."""
    done = cut(tree, shapes)
    for rows, before in ((done.answers, tree.answers), (done.criteria, tree.criteria)):
        for row, own in zip(rows, before, strict=True):
            assert row[-1:] == own[-1:] and row[:-1] == own[: max(len(row) - 1, 0)]
    assert (done.case, done.heads, done.labels) == (tree.case, tree.heads, tree.labels)


@given(trees, shapes)
def test_an_instruction_loses_its_middle(tree: Encoded, shapes: Shapes) -> None:
    row, own = cut(tree, shapes).prompt, tree.prompt
    assert row and row[-1] == own[-1] and kept_of(row, own)  # the answer begins behind the last token
    if len(row) > 1:
        assert row[0] == own[0]
    first = next((n for n in range(len(row)) if row[n] != own[n]), len(row))
    assert len(row) == len(own) or abs(2 * first - len(row)) <= 1  # as much of its beginning as of its end


@given(trees, shapes)
def test_no_more_is_cut_than_must_be(tree: Encoded, shapes: Shapes) -> None:
    """Each part has its limit or its length, unless the path is full; and of a full path each part has its share or all that it needs."""
    done, own = sizes(cut(tree, shapes)), sizes(tree)
    alone = {part: min(own[part], getattr(shapes, part) or own[part]) for part in ("prompt", "answer", "criterion")}
    path = shapes.path
    if path is None or sum(alone.values()) <= path:
        assert all(done[part] == size for part, size in alone.items())
    else:
        assert done["path"] == path
        shares = {"criterion": path // 4, "answer": path // 2, "prompt": path // 4}
        assert all(min(share, alone[part]) <= done[part] <= alone[part] for part, share in shares.items())


def test_an_example_of_a_path() -> None:
    done = cut(encoded(60, [50, 10], [6, 20]), Shapes(path=64))
    assert [len(done.prompt), *map(len, done.answers), *map(len, done.criteria)] == [16, 32, 10, 6, 16]
    short = cut(encoded(6, [90, 10], [6]), Shapes(path=64))  # what the others do not need is the answer's
    assert [len(short.prompt), *map(len, short.answers), *map(len, short.criteria)] == [6, 52, 10, 6]


@pytest.mark.parametrize("path", [1, 3])
def test_a_path_without_room_is_a_sentence(path: int) -> None:
    with pytest.raises(InputError, match=f"shapes.path is {path}, too short for an instruction, an answer and a criterion; set it to 4 or more"):
        cut(encoded(9, [9], [9]), Shapes(path=path))


# Files of them

FILE = [encoded(10, [5], [3], "fits"), encoded(40, [5], [3], "long"), encoded(10, [9], [3], "longer"), encoded(8, [], [3], "bare")]
SHAPES = Shapes(prompt=20, answer=8)


@given(st.lists(trees, max_size=4), shapes, st.booleans(), st.floats(0, 1))
def test_cases_are_left_out_or_cut_in_their_order_or_all_refused(cases: list[Encoded], shapes: Shapes, cuts: bool, share: float) -> None:
    cases = [encoded(len(c.prompt), [*map(len, c.answers)], [*map(len, c.criteria)], f"case-{i}") for i, c in enumerate(cases)]
    over = [case for case in cases if not fits(case, shapes)]
    if len(over) > share * len(cases) + 1e-6:
        with pytest.raises(InputError, match=f"{len(over)} of {len(cases)} cases have an? "):
            fit(cases, shapes, Long(share=share, cut=cuts), "here")
        return
    kept, found = fit(cases, shapes, Long(share=share, cut=cuts), "here")
    assert [one.case for one in found] == [case.case.id for case in over]
    assert kept == [cut(case, shapes) if cuts else case for case in cases if cuts or fits(case, shapes)]


def test_a_share_is_met_exactly() -> None:
    """0.29 * 100 is 28.999999999999996 in floating point."""
    found = [TooLong("x", "prompt", 2, 1)] * 29
    check(found, 100, "here", Long(share=0.29))
    with pytest.raises(InputError, match="29 of 100 cases"):
        check(found, 100, "here", Long(share=0.28))


def test_a_refusal_counts_names_the_worst_and_says_what_to_do() -> None:
    with pytest.raises(InputError) as caught:
        fit(FILE, SHAPES, Long(share=0.25), "mine.jsonl")
    assert str(caught.value) == (
        "mine.jsonl: 2 of 4 cases have a prompt or another part longer than shapes allow (case 'long' has 40 tokens, shapes.prompt is 20), "
        "and long.share allows 0.25; set shapes.prompt to 40 or more, raise long.share, or take these cases out"
    )
    with pytest.raises(InputError, match="1 of 1 cases have an answer or another part"):
        fit(FILE[2:3], SHAPES, Long(), "mine.jsonl")


def test_what_was_done_is_said_and_listed(tmp_path: Path) -> None:
    _, found = fit(FILE, SHAPES, Long(share=0.5), "mine.jsonl")
    assert sentence(found, 4, "mine.jsonl", "left out", tmp_path / "list") == (
        f"mine.jsonl: 2 of 4 cases are too long (answer, prompt) and are left out; see {tmp_path / 'list'}"
    )
    assert sentence(found[:1], 4, "mine.jsonl", "cut", None) == "mine.jsonl: 1 of 4 cases are too long (prompt) and are cut"
    write_list(tmp_path / "list", found, "left out")
    assert [json.loads(line) for line in (tmp_path / "list").read_text().splitlines()] == [
        {"case": "long", "part": "prompt", "tokens": 40, "limit": 20, "action": "left out"},
        {"case": "longer", "part": "answer", "tokens": 9, "limit": 8, "action": "left out"},
    ]
