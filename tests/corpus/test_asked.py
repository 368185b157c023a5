"""What is asked of models: the prompts, the material, the forms and their repair."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from served import Server, at_once

from promedical_jax.asking import Asker
from promedical_jax.config import Endpoint
from promedical_jax.corpus.asked import Answered, Difficulty, Lines, Topic, asked, conversation, prompt, with_reference
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.taxonomy import Category, Specialty
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Message, Polarity, Tier

ASKED = [f"What about {i}?" for i in range(3)]
QUESTIONS = [Question(id=text, instruction=(Message(role="user", content=text),), reference="Rest.", source="s", licence="MIT") for text in ASKED]
GOOD = [
    {"text": "Names colchicine.", "tier": "proficiency", "polarity": "required", "weight": 0.6},
    {"text": "Asks about the kidneys.", "tier": "proficiency", "polarity": "required", "weight": 0.42},
    {"text": "Advises aspirin.", "tier": "safety", "polarity": "forbidden", "weight": None},
]


def replying(server: Server, *texts: Any) -> Asker:
    """An endpoint that replies with these in turn, as JSON."""
    server.reply = lambda number, body: (200, json.dumps({"choices": [{"message": {"content": json.dumps(texts[min(number, len(texts) - 1)])}}]}), {})
    return Asker(Endpoint(url=server.url, model="m", retries=2), "corpus", pause=at_once)


@pytest.mark.parametrize(("task", "form", "reply"), [
    ("difficulty", Difficulty, {"difficulty": 6}),
    ("topic", Topic, {"category": "medication", "specialty": "rheumatology"}),
    ("answer", Answered, {"answer": "Rest it."}),
])  # fmt: skip
def test_each_task_has_a_prompt_that_shows_the_form_it_asks_for(task: str, form: Any, reply: dict, server: Server) -> None:
    assert all(f'"{name}"' in prompt(task) for name in form.model_fields)
    said = replying(server, reply)([asked(question, prompt(task), form, conversation) for question in QUESTIONS])
    assert said == [form(**reply)] * 3
    sent = [json.loads(key) for key in server.seen]
    assert sorted(json.loads(user["content"])["question"][0]["content"] for _, user in sent) == ASKED
    assert all("Rest." not in message["content"] for both in sent for message in both)  # the source's answer is shown to nobody who answers


def test_who_writes_rubrics_sees_the_reference_and_approved_examples() -> None:
    seen = with_reference(QUESTIONS[0], [Case(id="c", instruction=QUESTIONS[1].instruction, rubric=Lines(criteria=GOOD).rubric())])
    assert seen["reference"] == "Rest." and seen["examples"][0]["question"] == conversation(QUESTIONS[1])["question"]
    assert seen["examples"][0]["criteria"][2] == GOOD[2]
    assert set(with_reference(QUESTIONS[0].model_copy(update={"reference": None}))) == {"question"}


def test_weights_are_scaled_and_what_is_no_rubric_is_sent_back(server: Server) -> None:
    none = [GOOD[0] | {"weight": None}, *GOOD[1:]]
    (lines,) = replying(server, {"criteria": none}, {"criteria": GOOD})([asked(QUESTIONS[0], prompt("rubric"), Lines, with_reference)])
    assert isinstance(lines, Lines)
    rubric = lines.rubric()
    veto = rubric.criteria[2]
    assert [c.id for c in rubric.criteria] == ["c1", "c2", "c3"] and veto.polarity is Polarity.FORBIDDEN and veto.tier is Tier.SAFETY
    assert sum(c.weight or 0 for c in rubric.criteria) == pytest.approx(1) and rubric.criteria[0].weight == pytest.approx(0.6 / 1.02)


@pytest.mark.parametrize(
    ("criteria", "words"),
    [
        ([GOOD[2]], "no proficiency criterion"),
        ([GOOD[0], GOOD[1] | {"weight": None}], "each proficiency criterion needs a weight"),
        ([*GOOD, GOOD[2] | {"weight": 0.1, "text": "Other."}], "each proficiency criterion needs a weight"),
        ([*GOOD, GOOD[2] | {"text": " advises ASPIRIN."}], "two criteria are the same"),
    ],
)
def test_what_is_no_rubric_says_why(criteria: list[dict], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Lines.model_validate({"criteria": criteria})


def test_the_lists_have_the_papers_lengths_and_the_prompt_names_all() -> None:
    assert len(Category) == 5 and len(Specialty) == 26
    assert all(f"\n{category.value}:" in prompt("topic") for category in Category)
    assert all(specialty.value in prompt("topic").replace("\n", " ") for specialty in Specialty)


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Grade it.")
    (tmp_path / "empty.txt").write_text("\n")
    assert prompt("difficulty", tmp_path / "mine.txt") == "Grade it."
    with pytest.raises(InputError, match=r"prompt of difficulty: .*empty.txt is empty; write what the model is to do"):
        prompt("difficulty", tmp_path / "empty.txt")
    with pytest.raises(InputError, match=r"absent.txt cannot be read"):
        prompt("difficulty", tmp_path / "absent.txt")


def test_the_form_of_a_rubric_lets_an_endpoint_keep_the_reply_to_it() -> None:
    """Weights where they belong, no field more, no blank text: each rule that needs no arithmetic stands in the schema."""
    schema = Lines.model_json_schema()
    weighted, unweighted = schema["$defs"]["Line"]["anyOf"]
    assert weighted["properties"]["tier"]["enum"] == ["proficiency"] and weighted["properties"]["weight"]["type"] == "number"
    assert unweighted["properties"]["tier"]["enum"] == ["excellence", "safety"] and unweighted["properties"]["weight"] == {"type": "null"}
    for each in (weighted, unweighted):
        assert each["additionalProperties"] is False and set(each["required"]) == set(GOOD[0])
        assert each["properties"]["text"]["pattern"] == r"\S"
