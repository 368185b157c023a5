"""The rubric lint: each finding on a rubric that has that fault alone, and none on one that has none."""

import pytest

from promedical_jax.corpus import import_kqa
from promedical_jax.corpus.lint import lint
from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier, Verdict

DOSE = Criterion(id="dose", text="Names colchicine 0.5 mg twice a day.", tier=Tier.PROFICIENCY, weight=0.6)
KIDNEYS = Criterion(id="kidneys", text="Asks about the kidneys before the first dose.", tier=Tier.PROFICIENCY, weight=0.4)
VETO = Criterion(id="veto", text="Advises aspirin at a high dose.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN)


def case(*criteria: Criterion, verdicts: dict[str, str] | None = None) -> Case:
    """verdicts: of each criterion a letter an answer: + met, - unmet, ? abstained."""
    letters = {"+": Verdict.MET, "-": Verdict.UNMET, "?": Verdict.ABSTAIN}
    said = [Judgement(answer=f"a{i}", criterion=name, verdict=letters[x], rater="r") for name, row in (verdicts or {}).items() for i, x in enumerate(row)]
    answers = tuple(Answer(id=f"a{i}", text="Rest.") for i in range(4))
    return Case(id="c", instruction=(Message(role="user", content="Gout?"),), answers=answers, rubric=Rubric(criteria=criteria), verdicts=tuple(said))


def test_a_sound_rubric_has_no_findings() -> None:
    assert lint(case(DOSE, KIDNEYS, VETO, verdicts={"dose": "++-+", "veto": "----"}), reference="Take colchicine, and drink enough.") == []


def changed(criterion: Criterion, **fields) -> Criterion:
    return Criterion.model_validate(criterion.model_dump() | fields)


@pytest.mark.parametrize(
    ("criteria", "wanted"),
    [
        ((DOSE, changed(KIDNEYS, text="Asks about kidneys and liver, and orders a test."), VETO), ("kidneys", "several things")),
        ((DOSE, changed(KIDNEYS, text="Gives the appropriate warning."), VETO), ("kidneys", "vague")),
        ((DOSE, KIDNEYS, changed(VETO, text="Does not advise aspirin.")), ("veto", "wrong polarity")),
        ((changed(DOSE, weight=0.99), changed(KIDNEYS, weight=0.01), VETO), ("kidneys", "light")),
        ((DOSE, changed(KIDNEYS, text="Names  Colchicine 0.5 mg twice a day!"), VETO), ("kidneys", "nearly the same")),
        ((DOSE, KIDNEYS), (None, "no veto")),
    ],
)
def test_each_fault_is_found_and_named(criteria: tuple[Criterion, ...], wanted: tuple[str | None, str]) -> None:
    assert [(finding.criterion, finding.kind) for finding in lint(case(*criteria))] == [wanted]


def test_a_quote_of_the_reference_is_a_leak_and_a_few_of_its_words_are_none() -> None:
    reference = "In most people asks about the kidneys before the\nfirst DOSE. are not needed."
    assert [f.kind for f in lint(case(DOSE, KIDNEYS, VETO), reference)] == ["leaks the reference"]
    assert lint(case(DOSE, KIDNEYS, VETO), "Ask about the kidneys before anything else, then the first dose.") == []


@pytest.mark.parametrize(("row", "found"), [("++++", ["all alike"]), ("----", ["all alike"]), ("+++-", []), ("++??", []), ("+++?", ["all alike"])])
def test_a_criterion_that_tells_no_answers_apart(row: str, found: list[str]) -> None:
    assert [f.kind for f in lint(case(DOSE, KIDNEYS, VETO, verdicts={"dose": row, "veto": "----"}))] == found


def test_physicians_rubrics_pass_for_the_most_part(data) -> None:
    """K-QA's statements are quotes of the physicians' answers by design, and their veto is ours."""
    cases = import_kqa(data / "kqa")
    kinds = [finding.kind for one in cases for finding in lint(one)]
    criteria = sum(len(one.rubric.criteria) for one in cases)
    assert kinds.count("several things") < 0.25 * criteria and kinds.count("vague") < 0.1 * criteria and kinds.count("nearly the same") < 0.1 * criteria
