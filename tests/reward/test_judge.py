"""A reward model at work: from Python, as a reward function of TRL's, and a language model that is asked in its place."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import save_policy, save_reward_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import CONFIG, close, policy, reward_params
from tokenizers import normalizers

from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import RewardJudge, RewardModel, TierVerdicts, Verdicts, open_judge
from promedical_jax.reward.trl import reward_function
from promedical_jax.reward.zero_shot import QUESTION, open_zero_shot
from promedical_jax.rubric import Answer, Case, ScalarReward, Tier, Verdict, prefer, score, score_verdicts

ONE_DEVICE = make_mesh(devices=jax.devices()[:1])
BAND = Verdicts(tiers={tier: TierVerdicts(low=0.35, high=0.65) for tier in Tier})
CASES = make_cases(5, seed=0, answers=2)
TEXTS = ["Take rest.", "", "Take velotrin 40 mg daily. Come back in 5 days."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("judge"), build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer))
    save_reward_model(folder / "model", RewardModel(reward_params(config), config, BAND), tokenizer)
    one_head = reward_params(config) | {"heads": {name: x[:1] for name, x in reward_params(config)["heads"].items()}}
    save_reward_model(folder / "implicit", RewardModel(one_head, config, Verdicts(kind="implicit", tiers={})), tokenizer)
    save_reward_model(folder / "blind", RewardModel(reward_params(config), config, Verdicts(kind="blind", tiers=BAND.tiers)), tokenizer)
    tied = replace(config, tied=True)
    save_policy(folder / "policy", policy(tied), tied, tokenizer)
    return folder


@pytest.fixture(scope="module")
def judge(folder: Path) -> RewardJudge:
    return open_judge(folder / "model", mesh=ONE_DEVICE)


@pytest.fixture(scope="module")
def scores(judge: RewardJudge) -> list[np.ndarray]:
    return [said.score for said in judge(CASES)]


# From Python


def test_what_it_says_of_each_answer_and_criterion(judge: RewardJudge, scores: list[np.ndarray]) -> None:
    criteria = CASES[0].rubric.criteria
    said = judge(CASES)[0]
    assert said.score.shape == said.probability.shape == (2, len(criteria)) and np.isfinite(said.score).all()
    np.testing.assert_allclose(said.score, scores[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said.probability, 1 / (1 + np.exp(-said.score.astype(float))), rtol=1e-6)
    for row, p in zip(said.verdicts, said.probability, strict=True):
        assert [v is Verdict.MET for v in row] == [x > 0.65 if c.polarity == "required" else x >= 0.65 for x, c in zip(p, criteria, strict=True)]
        assert [v is Verdict.ABSTAIN for v in row] == [0.35 < x < 0.65 for x in p]
    hard, soft = judge.scores(CASES)[0], judge.scores(CASES, use=dict.fromkeys(Tier, "soft"))[0]
    good = np.where([c.polarity == "required" for c in criteria], said.probability, 1 - said.probability)
    for found, wanted in ((hard, score_verdicts(criteria, said.verdicts)), (soft, score(criteria, good))):
        for name in ("s1", "s2", "s3"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12)


def test_scores_are_of_the_model_on_each_path_alone(judge: RewardJudge, scores: list[np.ndarray]) -> None:
    """Instruction, answer and criterion in one flat row, and the head of the criterion's tier on its last token."""
    case, params = CASES[2], reward_params(judge.model.config)
    read, heads = judge.read(case), params["heads"]
    states = flat_states(params["backbone"], judge.model.config, [read.prompt + a + c for a in read.answers for c in read.criteria])
    tiers = [list(Tier).index(criterion.tier) for criterion in case.rubric.criteria] * len(read.answers)
    wanted = (states * heads["weight"][tiers]).sum(-1) + heads["bias"][tiers]
    close(scores[2], wanted.reshape(scores[2].shape), 1e-5)


def test_batch_order_and_padding_change_no_score(folder: Path, judge: RewardJudge, scores: list[np.ndarray]) -> None:
    long = CASES[0].model_copy(update={"id": "long", "answers": tuple(Answer(id=f"a{i}", text="Rest. " * 20 * (i + 1)) for i in range(3)), "verdicts": ()})
    for other, cases in (
        (judge, [*CASES[::-1], long]),  # other sizes
        (replace(judge, batch=2), [CASES[3], CASES[0], CASES[4]]),
        (open_judge(folder / "model", batch=3), CASES),  # all eight devices, which do not divide the batch
    ):
        for case, said in zip(cases, other(cases), strict=True):
            if case in CASES:
                close(said.score, scores[CASES.index(case)], 1e-5)


def test_texts_in_place_of_the_answers(judge: RewardJudge, scores: list[np.ndarray]) -> None:
    own = [[answer.text for answer in case.answers] for case in CASES]
    for said, wanted in zip(judge(CASES, own), scores, strict=True):
        np.testing.assert_allclose(said.score, wanted, rtol=1e-5, atol=1e-6)
    given = [TEXTS, [], own[2], TEXTS[1:2], own[4][:1]]
    said = judge(CASES, given)
    assert [one.score.shape for one in said] == [(len(texts), len(case.rubric.criteria)) for texts, case in zip(given, CASES, strict=True)]
    assert [len(one.verdicts) for one in said] == list(map(len, given)) and all(np.isfinite(one.score).all() for one in said)
    close(judge(CASES, [TEXTS[::-1], *given[1:]])[0].score[::-1], said[0].score, 1e-5)
    close(said[4].score, scores[4][:1], 1e-5)
    assert judge.verdicts(list(zip(CASES, given, strict=True))) == [one.verdicts for one in said]
    with pytest.raises(ValueError, match="zip"):
        judge(CASES, given[1:])


def test_the_best_of_some_answers(folder: Path, judge: RewardJudge) -> None:
    """By the verdicts on safety, then by the probabilities of the rest: no answer stands before it in that order. One score decides alone."""
    texts = [[*TEXTS, *(answer.text for answer in case.answers)] for case in CASES]
    answered = list(zip(CASES, texts, strict=True))
    picks = judge.best(answered)
    soft = judge.scores(CASES, texts, {Tier.PROFICIENCY: "soft", Tier.EXCELLENCE: "soft"})
    assert any(one.judged.any() for one in soft)
    for pick, one in zip(picks, soft, strict=True):
        assert one.judged[pick] or not one.judged.any()
        assert (prefer(one[[pick]], one) >= 0).all()
    implicit = open_judge(folder / "implicit", mesh=ONE_DEVICE)
    raw = implicit.raw([implicit.read(case, given) for case, given in answered])
    assert implicit.best(answered) == [int(np.argmax(scores[:, 0])) for scores in raw]


def test_nothing_to_judge(judge: RewardJudge) -> None:
    bare = CASES[0].model_copy(update={"answers": (), "verdicts": ()})
    assert judge([]) == [] and judge.scores([]) == [] and judge.verdicts([]) == []
    said, none = judge([bare, *CASES[1:]])[0], judge.scores([bare, *CASES[1:]])[0]
    assert said.score.shape == (0, len(bare.rubric.criteria)) and said.verdicts == [] and none.s1.shape == (0,)


def test_models_that_are_told_no_criterion(folder: Path) -> None:
    implicit, blind = (open_judge(folder / name, mesh=ONE_DEVICE) for name in ("implicit", "blind"))
    with pytest.raises(InputError, match="an implicit reward model has no verdicts"):
        implicit(CASES)
    criteria = tuple(criterion.model_copy(update={"text": "Something else."}) for criterion in CASES[0].rubric.criteria)
    other = CASES[0].model_copy(update={"rubric": CASES[0].rubric.model_copy(update={"criteria": criteria})})
    said, same = blind([CASES[0], other])
    np.testing.assert_array_equal(said.score, same.score)
    raw = implicit.raw([implicit.read(CASES[0])])[0]
    assert raw.shape == (2, 1)
    close(raw[:, 0], said.score[:, 0], 1e-5)  # the implicit model's head is the blind one's of proficiency


# As a reward function of TRL's

RUBRIC = CASES[0].rubric
PLAIN = json.loads(RUBRIC.model_dump_json())  # with nulls, as the columns of a data set have them
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "My head hurts."}]


def rewards_of(judge: RewardJudge, *asked: tuple[Case, list[str]]) -> list[list[float | None]]:
    scores = judge.scores([case for case, _ in asked], [texts for _, texts in asked])
    return [[None if np.isnan(value) else pytest.approx(value) for value in ScalarReward().of(one)] for one in scores]


def asked(instruction: list[dict[str, str]], rubric: Any = RUBRIC) -> Case:
    return Case.model_validate({"id": "x", "instruction": instruction, "rubric": rubric})


def test_trl_gets_the_published_reward(judge: RewardJudge) -> None:
    """Of plain prompts and of chats, of rubrics as mappings and as texts; prompts stand between one another, and other columns are left alone."""
    function, other, user = reward_function(judge), CASES[1].rubric, [{"role": "user", "content": "What helps?"}]
    chat = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    rows = [
        ("What helps?", TEXTS[0], PLAIN), (CHAT, chat(TEXTS[0]), other.model_dump_json()), ("What helps?", TEXTS[1], RUBRIC.model_dump(mode="json")),
        (CHAT, chat(TEXTS[2]), other.model_dump_json()), ("What helps?", TEXTS[2], PLAIN), (CHAT, chat(TEXTS[1]), other.model_dump_json()),
        (user, TEXTS[2], RUBRIC.model_dump_json(exclude_none=True)),  # the same prompt and rubric in other forms
    ]  # fmt: skip
    prompts, completions, rubrics = map(list, zip(*rows, strict=True))
    found = function(prompts=prompts, completions=completions, completion_ids=[[1]] * 7, rubric=rubrics, trainer_state=None, difficulty=[1] * 7)
    alone, talk = rewards_of(judge, (asked(user), TEXTS), (asked(CHAT, other), TEXTS))
    assert found == [alone[0], talk[0], alone[1], talk[2], alone[2], talk[1], alone[2]]
    assert all(value is None or type(value) is float for value in found) and any(value is not None for value in found)
    assert function.__name__ == "promedical"  # TRL names the metric after it


def test_trl_hears_soft_scores_and_other_constants(judge: RewardJudge) -> None:
    constants = ScalarReward(alpha=0.3, beta=0.5, penalty=1.75)
    soft = reward_function(judge, reward=constants, use={Tier.SAFETY: "soft", Tier.PROFICIENCY: "soft"})
    [scores] = judge.scores([asked(CHAT)], [TEXTS], {Tier.SAFETY: "soft", Tier.PROFICIENCY: "soft"})
    assert soft([CHAT] * 3, TEXTS, rubric=[PLAIN] * 3) == pytest.approx(list(constants.of(scores)))


def test_an_answer_of_which_nothing_is_known_has_no_reward(judge: RewardJudge) -> None:
    never = Verdicts(tiers=dict.fromkeys(Tier, TierVerdicts(low=0.0, high=1.0)))
    doubtful = replace(judge, model=replace(judge.model, verdicts=never))
    assert reward_function(doubtful)([CHAT] * 3, TEXTS, rubric=[PLAIN] * 3) == [None] * 3
    assert {v for row in doubtful(CASES[:1])[0].verdicts for v in row} == {Verdict.ABSTAIN}


def test_trl_opens_a_folder(folder: Path, judge: RewardJudge) -> None:
    assert reward_function(str(folder / "model"), batch=3)([CHAT] * 3, TEXTS, rubric=[PLAIN] * 3) == rewards_of(judge, (asked(CHAT), TEXTS))[0]
    with pytest.raises(InputError, match="not a reward model"):
        reward_function(folder / "policy")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)), max_size=8), data=st.data())
def test_each_reward_is_of_its_own_row(rows: list[tuple[int, int, int]], data: st.DataObject, judge: RewardJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the groups and however they stand between one another. The model's scores are stood in for by a number made of the tokens."""

    def stood_in(_: RewardJudge, cases: Any) -> list[np.ndarray]:
        number = lambda *parts: (crc32(str(parts).encode()) % 1000 - 500) / 100  # noqa: E731
        return [np.array([[number(x.prompt, a, c) for c in x.criteria] for a in x.answers]).reshape(len(x.answers), len(x.criteria)) for x in cases]

    monkeypatch.setattr(RewardJudge, "raw", stood_in)
    prompts, rubrics = ["What helps?", CHAT, "And what else?"], [PLAIN, CASES[1].rubric.model_dump_json()]
    function = reward_function(judge)
    call = lambda rows: function([prompts[p] for p, _, _ in rows], [TEXTS[t] for _, _, t in rows], rubric=[rubrics[r] for _, r, _ in rows])  # noqa: E731
    assert call(rows) == [reward for row in rows for reward in call([row])]
    order = data.draw(st.permutations(range(len(rows))))
    assert call([rows[i] for i in order]) == [call(rows)[i] for i in order]


@pytest.mark.parametrize(("change", "sentence"), [
    ({"rubric": None}, "the data set has no column 'rubric'; add one"),
    ({"rubric": [PLAIN, {"criteria": []}]}, "row 2 of the batch, column rubric: "),
    ({"rubric": ["{", PLAIN]}, "row 1 of the batch, column rubric: "),
    ({"rubric": [PLAIN, None]}, "row 2 of the batch, column rubric: "),
    ({"rubric": [PLAIN, PLAIN | {"criterion": []}]}, "row 2 of the batch, column rubric, field criterion: is not a known field; did you mean 'criteria'?"),
    ({"prompts": [CHAT, " "]}, "row 2 of the batch, column prompt, field instruction[0].content: the text is empty"),
    ({"prompts": [CHAT, [{"role": "tool", "content": "x"}]]}, "row 2 of the batch, column prompt, field instruction[0].role: is 'tool'"),
    ({"prompts": [CHAT, []]}, "row 2 of the batch, column prompt, field instruction: holds 0 and needs at least 1"),
], ids=range(8))  # fmt: skip
def test_what_trl_cannot_be_answered_is_a_sentence(change: dict[str, Any], sentence: str, judge: RewardJudge) -> None:
    given = {"prompts": [CHAT, CHAT], "completions": TEXTS[:2], "rubric": [PLAIN, PLAIN]} | change
    with pytest.raises(InputError) as caught:
        reward_function(judge)(**{name: value for name, value in given.items() if value is not None})
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


# A language model that is asked


def flat_states(params: Any, config: transformer.ModelConfig, rows: list[list[int]]) -> np.ndarray:
    """The hidden state [n, D] of the last token of each row, computed as a plain causal language model does."""
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)
    lengths = np.array([[len(row)] for row in rows], np.int32)

    @jax.jit
    def run(ids: jax.Array, lengths: jax.Array) -> jax.Array:
        layout = tree(longest)
        return transformer.forward(params, config, assemble(layout, [ids[:, None]], [lengths]), layout)

    return np.asarray(run(jnp.asarray(ids), jnp.asarray(lengths)))[np.arange(len(rows)), lengths[:, 0] - 1]


def test_zero_shot_is_the_models_own_log_odds(folder: Path) -> None:
    """Against logits at the end of the whole conversation in the chat template, where the reply would begin."""
    judge = open_zero_shot(folder / "policy", ONE_DEVICE, batch=1)
    case, tokenizer, config = CASES[0], build_tokenizer(), judge.model.config
    turns = [{"role": message.role, "content": message.content} for message in case.instruction]
    rows = []
    for answer in case.answers:
        for criterion in case.rubric.criteria:
            asks = {"role": "user", "content": QUESTION.format(criterion.text)}
            whole = [*turns, {"role": "assistant", "content": answer.text}, asks]
            rows.append(tokenizer.encode(tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True), add_special_tokens=False))
    logits = flat_states(policy(config), config, rows) @ transformer.unembedding(policy(config)).T
    yes, no = (tokenizer.encode(word)[0] for word in ("Yes", "No"))
    [said] = judge([case])
    close(said.score, (logits[:, yes] - logits[:, no]).reshape(said.score.shape), 1e-5)
    assert [[v is Verdict.MET for v in row] for row in said.verdicts] == (said.score > 0).tolist()
    assert judge.model.rater != "reward-model-"


def without_eos(tokenizer: Any) -> None:
    tokenizer.eos_token = None


def alike(tokenizer: Any) -> None:
    """As a tokenizer that puts a mark of its own before a word."""
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")


def without_users(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"


def without_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


@pytest.mark.parametrize(("change", "sentence"), [
    (alike, "'Yes' and 'No' begin with the same token of its tokenizer, so their odds cannot be read; use another judge"),
    (without_users, "its chat template drops or changes messages, so a question cannot follow an answer"),
    (without_eos, "no eos token or no chat template"),
    (without_template, "no eos token or no chat template"),
])  # fmt: skip
def test_a_tokenizer_that_cannot_ask_is_refused(change: Callable[[Any], None], sentence: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    change(tokenizer)
    config = replace(CONFIG, vocabulary=len(tokenizer))
    save_policy(tmp_path / "policy", policy(config), config, tokenizer)
    with pytest.raises(InputError, match=sentence):
        open_zero_shot(tmp_path / "policy", ONE_DEVICE)


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "policy").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="no weights; give the folder of a trained model"):
        open_zero_shot(tmp_path, ONE_DEVICE)
