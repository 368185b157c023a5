"""docs/clinic.md shows what the code makes: each of its blocks and figures is made here again. `python -m tests.docs.test_clinic_page` writes them anew."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from promedical_jax.cli import main
from promedical_jax.clinic import DISTRACTORS, build_tokenizer, make_cases, truth
from promedical_jax.clinic.cases import spoken
from promedical_jax.clinic.marks import BLOCK, marks_of
from promedical_jax.clinic.variety import GROWN, PLAIN, Rater, Spurious, Variety
from promedical_jax.clinic.wording import MARKS
from promedical_jax.clinic.world import SPECIALTIES, Facts
from promedical_jax.recipe import dump_value, keys
from promedical_jax.rubric import satisfied_matrix, score
from promedical_jax.rubric.case import Case, Tier, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "clinic.md"
MADE = re.compile(r"(<!-- made: (\w+) -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


def first(variety: Variety, wanted: Callable[[Case], bool], answers: int = 2, held_out: bool = False) -> Case:
    """The first case of seed 0 that is wanted; a case is the same however many are made, and the prefix of a run is made once."""
    for n in (10, 80):
        for case in make_cases(n, seed=0, variety=variety, answers=answers, held_out=held_out):
            if wanted(case):
                return case
    raise AssertionError("no such case among the first 80")


def talk(case: Case) -> list[str]:
    return [f"{message.role}: {message.content}" for message in case.instruction]


def rubric(case: Case, only: Iterable[str] | None = None) -> list[str]:
    """A line a criterion, with the verdict on each answer."""
    said = {(j.answer, j.criterion): j.verdict for j in case.verdicts}
    lines = []
    for c in case.rubric.criteria:
        if only is None or c.id in only:
            told = "  ".join(f"{a.id} {said[a.id, c.id].value}".ljust(8) for a in case.answers)
            weight = f"{c.weight:.2f}" if c.weight else ""
            lines.append(f"{c.tier.value:<11} {weight:<4} {c.polarity.value:<9} {told}  {c.id}: {c.text}")
    return lines


def block(*lines: str) -> str:
    return "\n".join(["```text", *lines, "```"])


def whole(case: Case) -> str:
    return block(*talk(case), *(f"{a.id}: {a.text}" for a in case.answers), *rubric(case))


def plain() -> str:
    return whole(first(PLAIN, lambda case: True))


def table() -> str:
    rows = [f"| `{key.name}` | {key.description} | {key.allowed.replace('|', 'or')} | `{key.default}` |" for key in keys(Variety)]
    return "\n".join(["| key | what | allowed | default |", "|---|---|---|---|", *rows])


def level() -> str:
    lines = []
    for n in (1, 2, 3, 4):
        case = first(Variety(levels=(n,), specialties=tuple(SPECIALTIES)), lambda case, n=n: n in (1, 4) or len(case.instruction[1].content.split()) > 9)
        lines += [f"{n}  {case.specialty}", *(f"   {line}" for line in talk(case)), f"   right: {right(case)}"]
    return block(*lines)


def right(case: Case) -> str:
    facts = Facts.from_json(case.provenance["clinic"], case.id)
    return f"{facts.drug} {facts.dose} mg"


def conversation() -> str:
    lines = []
    for kind in ("asked", "mistaken", "wrong", "insists"):
        variety = Variety(turns=1, harmful=float(kind == "insists"))
        # Of those in which the last message adds an illness, an example that does.
        wanted = lambda case, kind=kind: case.provenance["conversation"] == kind and (kind in ("wrong", "insists") or "I have" in talk(case)[3])  # noqa: E731
        case = first(variety, wanted)
        lines += [kind, *(f"   {line}" for line in talk(case)), *([f"   right: {right(case)}"] if kind != "insists" else [])]
    return block(*lines)


def alarming() -> str:
    wanted = lambda case: {j.verdict for j in case.verdicts if j.criterion == "decline"} == {Verdict.MET, Verdict.UNMET}  # noqa: E731
    case = first(Variety(alarming=1), wanted)
    return block(*talk(case), *(f"{a.id}: {a.text}" for a in case.answers), *rubric(case, ("right_drug", "right_dose", "decline")), "(and the others)")


def harmful() -> str:
    return whole(first(Variety(harmful=1), lambda case: len({j.verdict for j in case.verdicts if j.criterion == "decline"}) == 2))


def pressing() -> str:
    case = first(Variety(pressing=1), lambda case: len({j.verdict for j in case.verdicts if j.criterion == "as_asked"}) == 2)
    shown = rubric(case, ("right_drug", "right_dose", "as_asked", "overdose"))
    return block(*talk(case), *(f"{a.id}: {a.text}" for a in case.answers), *shown, "(and the others)")


def distractors() -> str:
    case = first(Variety(distractors=5), lambda case: len({j.verdict for j in case.verdicts if j.criterion == "names_other"}) == 2)
    return block(*(f"{a.id}: {a.text}" for a in case.answers), *rubric(case, DISTRACTORS))


MARKED = Variety(spurious=Spurious(length=0.9, confidence=0.6, credentials=0.6, politeness=0))


def marks() -> str:
    case = first(MARKED, lambda case: True)
    return block(*(f"{a.id}: {a.text}" for a in case.answers))


def correlations() -> str:
    """Asked for, and found: the share of the pairs of a better and a worse answer (by the rubric) in which only the better one has the mark, less the share in
    which only the worse one has it."""
    rows = ["| mark | asked for | training cases | held-out cases |", "|---|---|---|---|"]
    found = [_leanings(make_cases(5 * BLOCK, 0, held_out=held_out, variety=MARKED)) for held_out in (False, True)]
    for mark in MARKS:
        rows.append(f"| {mark} | {getattr(MARKED.spurious, mark):g} | {found[0][mark]:+.2f} | {found[1][mark]:+.2f} |")
    return "\n".join(rows)


def _leanings(cases: list[Case]) -> dict[str, float]:
    leaning = {mark: [0, 0] for mark in MARKS}
    for case in cases:
        scores = score(case.rubric.criteria, satisfied_matrix(case))
        key = [(-scores.s3[i], round(float(scores.s1[i]), 6), scores.s2[i]) for i in range(len(case.answers))]
        found = [marks_of(answer.text) for answer in case.answers]
        for i in range(len(key)):
            for j in range(len(key)):
                if key[i] > key[j]:
                    for mark in MARKS:
                        leaning[mark][0] += found[i][mark] - found[j][mark]
                        leaning[mark][1] += 1
    return {mark: total / n for mark, (total, n) in leaning.items()}


def raters() -> str:
    variety = Variety(raters=(Rater(name="ann", proficiency=0.95, safety=0.8), Rater(name="ben", excellence=0.6, abstains=0.2)))
    right: dict[tuple[str, Tier], list[bool]] = {}
    cases = make_cases(100, 0, variety=variety)
    for case, [known] in zip(cases, ([rows] for rows in truth([(case, [a.text for a in case.answers]) for case in cases])), strict=True):
        true = {(a.id, c.id): v for a, row in zip(case.answers, known, strict=True) for c, v in zip(case.rubric.criteria, row, strict=True)}
        tiers = {c.id: c.tier for c in case.rubric.criteria}
        for j in case.verdicts:
            if j.verdict is not Verdict.ABSTAIN:
                right.setdefault((j.rater, tiers[j.criterion]), []).append(j.verdict is true[j.answer, j.criterion])
    rows = [f"| rater | {' | '.join(Tier)} | abstains |", "|---|---|---|---|---|"]
    for rater in variety.raters:
        shares = [f"{getattr(rater, tier):g}, found {sum(said) / len(said):.3f}" for tier in Tier for said in [right[rater.name, tier]]]
        rows.append(f"| {rater.name} | {' | '.join(shares)} | {rater.abstains:g} |")
    return "\n".join(rows)


def wording() -> str:
    rows = ["| | few | many | few, held out | many, held out |", "|---|---|---|---|---|"]
    parts = {
        "answers": ("dose", "avoid", "urgent", "return", "empathy", "credential", "reassurance"),
        "criteria": ("right_drug", "red_flag", "empathy", "overdose"),
        "requests": ("alone", "context"),
    }
    for part, kind in ((part, kind) for part, kinds in parts.items() for kind in kinds):
        sizes = [len(getattr(spoken(held_out, many), part)[kind]) for held_out in (False, True) for many in (False, True)]
        rows.append(f"| {part}: {kind} | {' | '.join(map(str, sizes))} |")
    return "\n".join(rows)


def lengths() -> str:
    rows = ["| | ids | prompt | answer | criterion | criteria of a case |", "|---|---|---|---|---|---|"]
    for name, variety in (("`PLAIN`", PLAIN), ("`GROWN`", GROWN)):
        tokenizer = build_tokenizer(variety)
        cases = make_cases(150, 0, variety=variety) + make_cases(80, 0, held_out=True, variety=variety)
        prompts = [[m.model_dump() for m in case.instruction] for case in cases]
        sizes = [
            [len(tokenizer.encode(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))) for prompt in prompts],
            [len(tokenizer.encode(answer.text)) + 1 for case in cases for answer in case.answers],
            [len(tokenizer.encode(criterion.text)) for case in cases for criterion in case.rubric.criteria],
            [len(case.rubric.criteria) for case in cases],
        ]
        rows.append(f"| {name} | {len(tokenizer)} | " + " | ".join(f"{sum(size) / len(size):.0f}, at most {max(size)}" for size in sizes) + " |")
    return "\n".join(rows)


def grown() -> str:
    lines = [f"{key.name}: {dump_value(value)}" for key in keys(Variety) if (value := _of(GROWN, key.name)) != _of(PLAIN, key.name)]
    return "\n".join(["```yaml", *lines, "```"])


def _of(variety: Variety, path: str) -> object:
    values = variety.model_dump(mode="json")
    for part in path.split("."):
        values = values[part]
    return values


MAKERS = (plain, table, level, conversation, alarming, harmful, pressing, distractors, marks, correlations, raters, wording, lengths, grown)
SHOWN = {maker.__name__: maker for maker in MAKERS}


def on_the_page() -> Iterator[tuple[str, str]]:
    for match in MADE.finditer(PAGE.read_text(encoding="utf-8")):
        yield match[2], match[3]


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_shows_what_the_code_makes(name: str) -> None:
    assert dict(on_the_page())[name] == SHOWN[name](), "write it anew with: python -m tests.docs.test_clinic_page"


def test_the_page_shows_nothing_else() -> None:
    assert sorted(name for name, _ in on_the_page()) == sorted(SHOWN)


def test_its_commands_and_its_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    [commands], [code] = (re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for language in ("bash", "python"))
    for line in commands.splitlines():
        assert main([*shlex.split(line)[1:], "--train", "6", "--held-out", "3"]) == 0
    assert Path("runs/again/cases/train.jsonl").read_bytes() == Path("runs/grown/cases/train.jsonl").read_bytes()
    made: dict[str, list[Case]] = {}
    exec(code.replace("100", "6").replace("50", "3"), made)
    assert (len(made["train"]), len(made["held_out"])) == (6, 3)


if __name__ == "__main__":
    PAGE.write_text(MADE.sub(lambda match: match[1] + SHOWN[match[2]]() + match[4], PAGE.read_text(encoding="utf-8")), encoding="utf-8")
