"""Each kind of pydantic fault becomes one plain sentence that names the field and the fix."""

import pytest
from pydantic import ValidationError

from promedical_jax.rubric import Case, ScalarReward
from promedical_jax.rubric.faults import sentence


def valid():
    return {
        "id": "c",
        "instruction": [{"role": "user", "content": "q"}],
        "answers": [{"id": "x", "text": "t"}],
        "rubric": {"criteria": [{"id": "a", "text": "t", "tier": "proficiency", "weight": 1}]},
        "verdicts": [{"answer": "x", "criterion": "a", "verdict": "met", "rater": "r"}],
    }


def said(change):
    fields = valid()
    change(fields)
    with pytest.raises(ValidationError) as caught:
        Case.model_validate(fields)
    return sentence(caught.value, Case)


def criterion(fields):
    return fields["rubric"]["criteria"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: criterion(f).update(weight=1.5), "field rubric.criteria[0].weight: is 1.5 and should be less than or equal to 1; mend it"),
        (lambda f: criterion(f).update(weight=[]), "field rubric.criteria[0].weight: is [] and should be a valid number; mend it"),
        (lambda f: criterion(f).update(wieght=1), "field rubric.criteria[0].wieght: is not a known field; did you mean 'weight'?"),
        (lambda f: criterion(f).update(tier="bonus"), "field rubric.criteria[0].tier: is 'bonus'; use one of 'proficiency', 'excellence' or 'safety'"),
        (lambda f: criterion(f).pop("text"), "field rubric.criteria[0].text: is missing; add it"),
        (lambda f: criterion(f).update(text=" "), "field rubric.criteria[0].text: the text is empty; write something or leave the record out"),
        (lambda f: criterion(f).update(weight=0.4), "field rubric: the weights of the proficiency criteria sum to 0.4; scale them to sum to 1"),
        (lambda f: f.update(verdicts=[f["verdicts"][0] | {"verdict": "yes"}]), "field verdicts[0].verdict: is 'yes'; use one of 'met', 'unmet' or 'abstain'"),
        (lambda f: f["instruction"][0].update(role="bot"), "field instruction[0].role: is 'bot'; use one of 'system', 'user' or 'assistant'"),
        (lambda f: f["instruction"][0].update(name="Ann"), "field instruction[0].name: is not a known field; remove it, the known fields are content, role"),
        (lambda f: f.update(instruction=[]), "field instruction: holds 0 and needs at least 1; add what is missing"),
        (lambda f: f.update(rubric=[1]), "field rubric: is [1] and should be a valid dictionary or instance of Rubric; mend it"),
        (lambda f: f.update(provenance={"year": 2020}), "field provenance.year: is 2020 and should be a valid string; mend it"),
        (lambda f: f["verdicts"][0].update(answer="z"), "a verdict refers to answer 'z', which the case does not have"),
        (lambda f: (f.pop("id"), f.pop("rubric")), "field id: is missing; add it (1 more fault here)"),
        (lambda f: (f.pop("id"), f.pop("rubric"), f.pop("instruction")), "field id: is missing; add it (2 more faults here)"),
    ],
)
def test_the_sentence(change, expected):
    assert said(change) == expected


def test_an_unknown_field_at_the_top_lists_or_suggests():
    assert said(lambda f: f.update(instructions=[])) == "field instructions: is not a known field; did you mean 'instruction'?"
    assert "the known fields are answers, category, difficulty, id, instruction, provenance" in said(lambda f: f.update(zzz=1))


def test_a_long_value_is_shortened():
    message = said(lambda f: f.update(difficulty="x" * 500))
    assert len(message) < 200 and "'xxx" in message


def test_it_works_for_any_model():
    with pytest.raises(ValidationError) as caught:
        ScalarReward(penalty=1)
    assert sentence(caught.value, ScalarReward).startswith("penalty is 1 and must be greater than 1 + beta = 1.3")
