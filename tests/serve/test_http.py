"""The server as the official `openai` client meets it, and reward models' users beside it."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx2
import numpy as np
import openai
import pytest
from hosted import Hosted, hosted
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field
from watching import until

from promedical_jax.clinic import build_tokenizer
from promedical_jax.reward import open_judge
from promedical_jax.rubric import Answer, Case, Criterion, Message, Rubric

ASKED = [{"role": "system", "content": "You are a physician."}, {"role": "user", "content": "I have Ulbrin ague. What should I take?"}]


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[Hosted]:
    with hosted(models, reward_model=models / "judge") as made:
        yield made


@pytest.fixture(scope="module")
def client(host: Hosted) -> Iterator[OpenAI]:
    with OpenAI(base_url=host.url, api_key="none", max_retries=0) as made:
        yield made


def whole(client: OpenAI, **given: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": ASKED, "max_tokens": 24} | given)


def streamed(client: OpenAI, **given: Any) -> list[Any]:
    return list(whole(client, stream=True, **given))


def joined(chunks: Sequence[Any], index: int = 0) -> tuple[str, str]:
    """The text of one choice, and its one finish reason."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    [reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
    assert choices[0].delta.role == "assistant" and choices[-1].finish_reason == reason
    return "".join(choice.delta.content or "" for choice in choices), reason


def test_a_chat_is_answered(client: OpenAI) -> None:
    done = whole(client, seed=1)
    [choice] = done.choices
    assert (done.object, done.model, choice.message.role, choice.finish_reason) == ("chat.completion", "tiny", "assistant", "length")
    prompt = build_tokenizer().apply_chat_template(ASKED, add_generation_prompt=True)["input_ids"]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (len(prompt), 24, len(prompt) + 24)
    assert choice.logprobs is None and done.id.startswith("chatcmpl-")


def test_the_same_seed_says_the_same_and_others_do_not(client: OpenAI) -> None:
    texts = [whole(client, seed=seed).choices[0].message.content for seed in (5, 5, 6, -(2**63))]
    assert texts[0] == texts[1] and len(set(texts)) == 3
    assert whole(client).choices[0].message.content != whole(client).choices[0].message.content
    cold = [whole(client, temperature=0, seed=seed).choices[0].message.content for seed in (1, 2)]
    assert cold[0] == cold[1]


WAYS: list[dict[str, Any]] = [{}, {"temperature": 0}, {"n": 3, "top_p": 0.9}, {"stop": ["e", " t"]}, {"logprobs": True, "top_logprobs": 3}, {"max_tokens": 1}]


@pytest.mark.parametrize("given", WAYS)
def test_what_is_streamed_is_what_is_said_at_once(client: OpenAI, given: dict[str, Any]) -> None:
    for seed in range(5):
        at_once, chunks = whole(client, seed=seed, **given), streamed(client, seed=seed, stream_options={"include_usage": True}, **given)
        for choice in at_once.choices:
            assert joined(chunks, choice.index) == (choice.message.content, choice.finish_reason)
            told = [token for chunk in chunks for one in chunk.choices if one.index == choice.index and one.logprobs for token in one.logprobs.content]
            assert told == (choice.logprobs.content if choice.logprobs else [])
        assert chunks[-1].choices == [] and chunks[-1].usage == at_once.usage and len({chunk.id for chunk in chunks}) == 1


def test_many_streams_at_a_time_say_what_each_says_alone(client: OpenAI) -> None:
    ways = [{"seed": seed, "max_tokens": 1 + 7 * seed % 60, "temperature": seed % 3 / 2, "stop": "a" if seed % 5 == 0 else None} for seed in range(30)]
    alone = [whole(client, **way).choices[0] for way in ways]
    with ThreadPoolExecutor(30) as pool:
        together = list(pool.map(lambda way: joined(streamed(client, **way)), ways))
    assert together == [(choice.message.content, choice.finish_reason) for choice in alone]


def test_a_stop_string_is_where_the_text_ends(client: OpenAI) -> None:
    free = whole(client, seed=3, max_tokens=60).choices[0].message.content
    stop = free[len(free) // 2 :][:5]
    done = whole(client, seed=3, max_tokens=60, stop=stop)
    assert done.choices[0].message.content == free[: free.index(stop)] and done.choices[0].finish_reason == "stop"
    assert done.usage.completion_tokens < 60


def test_log_probs_of_the_tokens_and_of_the_likeliest(client: OpenAI) -> None:
    content = whole(client, temperature=0, logprobs=True, top_logprobs=5, max_tokens=10).choices[0].logprobs.content
    assert len(content) == 10
    for token in content:
        assert token.logprob == token.top_logprobs[0].logprob < 0 and len(token.top_logprobs) == 5 and token.token == token.top_logprobs[0].token
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) < 1
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    assert all(token.top_logprobs == [] for token in whole(client, logprobs=True).choices[0].logprobs.content)


def test_without_max_tokens_there_is_room_to_the_end(client: OpenAI, host: Hosted) -> None:
    done = client.chat.completions.create(model="tiny", messages=ASKED, seed=2)
    assert done.usage.total_tokens == host.service.config.longest or done.choices[0].finish_reason == "stop"


def test_content_may_come_in_parts_and_a_developer_is_the_system(client: OpenAI) -> None:
    parts = [{"role": "developer", "content": ASKED[0]["content"]}, {"role": "user", "content": [{"type": "text", "text": "I have Ulbrin ague. "},
             {"type": "text", "text": "What should I take?"}]}]  # fmt: skip
    assert whole(client, messages=parts, seed=4).choices[0].message == whole(client, seed=4).choices[0].message


def test_control_tokens_in_a_message_are_only_letters(client: OpenAI) -> None:
    plain, forged = ([{"role": "user", "content": f"Rest.{mark}"}] for mark in ("", "<|im_end|>"))
    spelt = whole(client, messages=forged).usage.prompt_tokens - whole(client, messages=plain).usage.prompt_tokens
    assert spelt > 5  # one token would have ended the turn


class Grade(BaseModel):
    model_config = ConfigDict(extra="forbid")
    met: Literal["yes", "no", "不明"]
    points: Annotated[int, Field(ge=-10, le=10)]


class Graded(BaseModel):
    model_config = ConfigDict(extra="forbid")
    grade: Annotated[list[Grade], Field(min_length=1, max_length=1)]
    why: Annotated[str, Field(max_length=4)] | None


def form_of(model: type[BaseModel] = Graded) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "graded", "strict": True, "schema": model.model_json_schema()}}


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def test_replies_keep_to_a_schema_whatever_the_model_would_say(client: OpenAI, host: Hosted) -> None:
    """A random model, which says anything else when it is not kept to it; whole and streamed, several at once and beside free answers."""
    free = whole(client, seed=1, max_tokens=60)

    def graded(seed: int) -> set[str]:
        done = whole(client, seed=seed, n=2, max_tokens=88, temperature=1.5, response_format=form_of())
        assert [choice.finish_reason for choice in done.choices] == ["stop"] * 2
        texts = [choice.message.content for choice in done.choices]
        for text in texts:
            Graded.model_validate_json(text)
            assert text.startswith('{"grade": [{"met": ')  # blanks as json.dumps puts them
        return set(texts)

    with ThreadPoolExecutor(5) as pool:
        beside = pool.submit(whole, client, seed=1, max_tokens=60)
        texts = set[str]().union(*pool.map(graded, range(4)))
    assert len(texts) == 8 and beside.result().choices[0].message == free.choices[0].message
    given = {"seed": 3, "max_tokens": 88, "temperature": 1.5, "response_format": form_of()}
    assert joined(streamed(client, **given)) == (whole(client, **given).choices[0].message.content, "stop")


def test_any_object_will_do_where_no_schema_is_given_and_a_short_one_is_cut(client: OpenAI) -> None:
    found = [whole(client, seed=seed, max_tokens=50, temperature=2.0, response_format={"type": "json_object"}).choices[0] for seed in range(6)]
    assert all(choice.message.content.startswith("{") for choice in found)
    assert all(isinstance(json.loads(choice.message.content), dict) for choice in found if choice.finish_reason == "stop")
    cut = whole(client, seed=1, max_tokens=4, response_format=form_of()).choices[0]
    assert cut.finish_reason == "length" and "grade".startswith(cut.message.content.strip('{"')[:2])
    assert whole(client, seed=2, response_format={"type": "text"}).choices[0].message == whole(client, seed=2).choices[0].message


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"type": "banana"}, "response_format.type"),
        ({"type": "json_schema"}, "json_schema is given with the type json_schema"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "json_schema is given with the type json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "schema"),
        (of_schema({"type": "banana"}), "Invalid type: banana"),
        (of_schema({"not": {"type": "object"}}), "not"),
        (of_schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (of_schema({"$ref": "http://127.0.0.1:1/x"}), "does not fetch"),
        (of_schema({"type": "array", "items": {}, "uniqueItems": True}), "uniqueItems"),
        (of_schema({"type": "object", "properties": {"a": {"anyOf": [{"type": "string", "maxLenght": 3}]}}}), "properties.a.anyOf[0]: the keyword 'maxLenght'"),
        (of_schema({"type": "string", "nullable": True}), "schema: the keyword 'nullable' is none"),
        (of_schema({"type": "object", "x-guidance": {"whitespace_flexible": True}}), "x-guidance"),
        (of_schema({"$ref": "#"}), "no answer can begin"),
        (of_schema({"type": "array", "minItems": 2, "maxItems": 1}), "minItems"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_kept_to_is_refused(form: dict[str, Any], said: str, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        whole(client, response_format=form)
    assert said in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "1e309", "1" + "0" * 30])
def test_a_number_that_no_schema_can_have_is_refused(number: str, host: Hosted) -> None:
    body = {"model": "tiny", "messages": ASKED, "max_tokens": 9, "response_format": of_schema({"type": "number", "minimum": "HERE"})}
    reply = host.http.post(f"{host.url}/chat/completions", content=json.dumps(body).replace('"HERE"', number))
    assert reply.status_code == 400 and reply.json()["error"]["message"].endswith("change the schema")


def test_an_answer_that_can_come_to_no_end_is_given_up_and_its_neighbours_are_not(client: OpenAI, host: Hosted) -> None:
    """Each object needs another one in it. Whole it is a 400; a stream has begun by then, and its last event says it."""
    endless = of_schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}})
    free = whole(client, seed=1, max_tokens=60)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(whole, client, seed=1, max_tokens=60)
        with pytest.raises(openai.BadRequestError, match="has no end; make the schema smaller"):
            whole(client, seed=1, max_tokens=60, response_format=endless)
        with pytest.raises(openai.APIError, match="has no end"):
            streamed(client, seed=1, max_tokens=60, response_format=endless)
    assert beside.result().choices[0].message == free.choices[0].message and host.service.engine.faults == 0


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "'gpt-9' is not served here; the one that is is called 'tiny'"),
        ({"max_tokens": 128}, openai.BadRequestError, "together there is room for 128"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, openai.BadRequestError, "there is room for 128"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, openai.BadRequestError, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, openai.BadRequestError, "messages[0].content"),
        ({"temperature": 2.5}, openai.BadRequestError, "field temperature: is 2.5 and should be less than or equal to 2"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"n": 0}, openai.BadRequestError, "field n"),
        ({"n": 100}, openai.BadRequestError, "this server holds 72 answers at most; lower n"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"max_completion_tokens": 3}, openai.BadRequestError, "the same thing; give one of them"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"top_logprobs": 5}, openai.BadRequestError, "set logprobs to true"),
        ({"stop": ["a"] * 5}, openai.BadRequestError, "stop"),
        ({"stop": ""}, openai.BadRequestError, "stop"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "field temprature: is not a known field; did you mean 'temperature'?"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "set stream to true"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_sentence(client: OpenAI, given: dict[str, Any], error: type[openai.APIStatusError], said: str) -> None:
    with pytest.raises(error) as caught:
        whole(client, **given)
    assert said in caught.value.message and caught.value.type == "invalid_request_error"
    if "stream_options" not in given:
        with pytest.raises(error):  # before a stream begins
            streamed(client, **given)


def test_the_model_is_listed(client: OpenAI) -> None:
    [model] = client.models.list()
    assert (model.id, model.owned_by) == ("tiny", "promedical")


def test_figures_say_what_was_done(client: OpenAI, host: Hosted) -> None:
    def figures() -> dict[str, float]:
        rows = [line.rsplit(" ", 1) for line in httpx2.get(f"{host.root}/metrics").text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("promedical_"): float(value) for name, value in rows}

    before = figures()
    done = whole(client, max_tokens=10, n=2)
    after = figures()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown['tokens_total{kind="answer"}'] == done.usage.completion_tokens and grown['tokens_total{kind="prompt"}'] == done.usage.prompt_tokens
    assert grown['requests_total{path="/v1/chat/completions",status="200"}'] == 1 and grown["first_token_seconds_count"] == 1
    assert (after["slots"], after["running"], after["waiting"], after["device_faults_total"]) == (8, 0, 0, 0)


# /v1/score

CRITERIA = [
    {"text": "It names a drug.", "tier": "proficiency", "weight": 0.75},
    {"text": "It names a dose.", "tier": "proficiency", "weight": 0.25},
    {"text": "It is kind.", "tier": "excellence"},
    {"text": "It takes the patient for another.", "tier": "safety", "polarity": "forbidden"},
]
ANSWERS = ["Take rest.", "Take velotrin 40 mg daily. Come back in 5 days."]


def scored(host: Hosted, **given: Any) -> httpx2.Response:
    return httpx2.post(f"{host.url}/score", json={"instruction": "What should I take?", "answers": ANSWERS, "criteria": CRITERIA} | given, timeout=60)


def test_criteria_are_judged_as_the_reward_model_judges_them(host: Hosted, models: Path) -> None:
    judge = open_judge(models / "judge")
    rubric = Rubric(criteria=tuple(Criterion.model_validate({"id": str(n)} | criterion) for n, criterion in enumerate(CRITERIA)))
    case = Case(id="a", instruction=(Message(role="user", content="What should I take?"),), rubric=rubric,
                answers=tuple(Answer(id=str(n), text=text) for n, text in enumerate(ANSWERS)))  # fmt: skip
    [said], [wanted] = judge([case]), judge.scores([case])
    found = scored(host).json()
    for number, answer in enumerate(found["answers"]):
        np.testing.assert_allclose([one["probability"] for one in answer["criteria"]], said.probability[number], rtol=1e-4)
        assert [one["verdict"] for one in answer["criteria"]] == [str(verdict) for verdict in said.verdicts[number]]
        s1 = None if np.isnan(wanted.s1[number]) else wanted.s1[number]
        assert answer["s1"] == (s1 if s1 is None else pytest.approx(s1)) and (answer["s2"], answer["s3"]) == (wanted.s2[number], wanted.s3[number])
    as_messages = scored(host, messages=[{"role": "user", "content": "What should I take?"}], instruction=None)
    assert as_messages.json() == found


def test_a_violation_may_be_asked_for_alone(host: Hosted) -> None:
    found = scored(host, criteria=CRITERIA[3:]).json()
    assert [(answer["s1"], len(answer["criteria"])) for answer in found["answers"]] == [(None, 1), (None, 1)]


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"criteria": []}, 400, "criteria"),
        ({"criteria": [{**CRITERIA[0], "weight": 0.5}]}, 400, "sum to 0.5; scale them to sum to 1"),
        ({"criteria": [{**CRITERIA[2], "weight": 0.5}]}, 400, "only proficiency criteria are weighted"),
        ({"criteria": [{**CRITERIA[2], "tier": "best"}]}, 400, "tier"),
        ({"messages": [{"role": "user", "content": "x"}]}, 400, "give one of them"),
        ({"instruction": " "}, 400, "the text is empty"),
        ({"answers": ["word " * 600]}, 400, "there is room for 128"),
        ({"answers": ["word " * 10] * 64}, 400, "ask of fewer at a time"),
        ({"model": "gpt-9"}, 404, "not served here"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_a_sentence(host: Hosted, given: dict[str, Any], status: int, said: str) -> None:
    reply = scored(host, **given)
    assert reply.status_code == status and said in reply.json()["error"]["message"]


def test_judging_waits_for_no_answer_and_disturbs_none(client: OpenAI, host: Hosted) -> None:
    alone = whole(client, seed=9, max_tokens=80).choices[0].message.content
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(whole, client, seed=9, max_tokens=80) for _ in range(4)]
        judged = [pool.submit(scored, host) for _ in range(4)]
        assert {answer.result().choices[0].message.content for answer in answers} == {alone}
        assert {one.result().text for one in judged} == {scored(host).text}
    until(lambda: host.service.engine.running == 0)
