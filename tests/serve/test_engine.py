"""The engine: the same weights give the same tokens as everywhere else here, whoever else is answered; slots come back, memory stays."""

import gc
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, close, policy
from watching import until

from promedical_jax.model import decode, draw, transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.rollout import sample
from promedical_jax.serve import slots
from promedical_jax.serve.engine import Drawing, End, Engine, Full, Question, Token
from promedical_jax.train.policy import AnswerBatch, answer_log_probs
from tests.model.test_goldens import GOLDENS, read

LONGEST, NEVER = 100, -1
GREEDY = Drawing(0, temperature=0.0)


class Heard:
    """What became of a question's choices."""

    def __init__(self, prompt: Sequence[int], limit: int, drawing: Drawing = GREEDY, choices: int = 1):
        self.tokens: dict[int, list[Token]] = defaultdict(list)
        self.ends: dict[int, End] = {}
        self.question = Question(list(prompt), choices, limit, drawing, self._hear)
        self._done = threading.Event()

    def _hear(self, choice: int, tokens: Sequence[Token], end: End | None) -> None:
        assert choice not in self.ends, "nothing comes after the end"
        self.tokens[choice] += tokens
        if end:
            self.ends[choice] = end
        if len(self.ends) == self.question.choices:
            self._done.set()

    def wait(self) -> list[list[int]]:
        assert self._done.wait(60)
        return [[token.number for token in self.tokens[choice]] for choice in range(self.question.choices)]


def settled(params: Params) -> Params:
    return jax.jit(decode.settle, static_argnums=1)(params, "float32")


@contextmanager
def running(count: int = 4, queue: int = 100, stop: int = NEVER, params: Params | None = None, config: ModelConfig = CONFIG, longest: int = LONGEST,
            mesh: Any = None) -> Iterator[Engine]:  # fmt: skip
    made = Engine(settled(policy()) if params is None else params, config, count=count, queue=queue, longest=longest, stop=stop, mesh=mesh)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running() as made:
        yield made


def ask(engine: Engine, *given: Any, **named: Any) -> Heard:
    heard = Heard(*given, **named)
    engine.ask(heard.question)
    return heard


@cache
def prompt(number: int) -> tuple[int, ...]:
    rng = np.random.default_rng(number)
    return tuple(rng.integers(0, CONFIG.vocabulary, rng.integers(1, 70)).tolist())


def rolled(tokens: Sequence[int], length: int) -> list[int]:
    done = sample(policy(), CONFIG, np.array([tokens], np.int32), np.array([len(tokens)], np.int32), jax.random.key(0), np.zeros(1, np.int32), answers=1,
                  answer_tokens=length, stop=NEVER, temperature=0.0)  # fmt: skip
    return np.asarray(done.tokens)[0, 0].tolist()


def test_greedy_answers_are_those_of_the_rollout(engine: Engine) -> None:
    lengths = [1, 2, 31, 32, 33, 64, 65, 70]  # both sides of what instructions are padded to
    asked = [(np.random.default_rng(n).integers(0, CONFIG.vocabulary, n).tolist(), 30) for n in lengths]
    heard = [ask(engine, *each) for each in asked]
    for one, (tokens, limit) in zip(heard, asked, strict=True):
        assert one.wait() == [rolled(tokens, limit)] and one.ends == {0: "length"}


@pytest.mark.parametrize("file", GOLDENS[:2], ids=lambda file: file.stem)
def test_greedy_answers_are_those_of_transformers(file: Path) -> None:
    golden = read(file)
    with running(params=settled(golden.params), config=golden.config) as engine:
        heard = [ask(engine, ids[mask].tolist(), 64) for ids, mask in zip(golden.ids, golden.mask, strict=True)]
        assert [one.wait()[0] for one in heard] == golden.greedy.tolist()


def test_an_answer_has_the_same_bits_alone_and_among_thirty_others(engine: Engine) -> None:
    drawing = Drawing(12345678901234567890, 0.9, top_p=0.95, report=True)
    alone = ask(engine, prompt(0), 30, drawing)
    alone.wait()
    others = [ask(engine, prompt(n), 1 + n, Drawing(n, 1.2, top_k=n)) for n in range(1, 16)]
    among = ask(engine, prompt(0), 30, drawing)
    others += [ask(engine, prompt(n), 30 - n, Drawing(n)) for n in range(1, 16)]
    among.wait()
    assert among.tokens == alone.tokens  # log-probabilities with them
    assert all(len(other.wait()[0]) == other.question.limit for other in others)


class Only:
    """A guide that lets certain tokens pass, and can say nothing after a number of them."""

    def __init__(self, passing: Sequence[int], most: int = 1000):
        self.bits = np.zeros(slots.words(CONFIG.vocabulary), np.int32)
        for token in passing:
            self.bits[token // 32] |= np.uint32(1 << token % 32).astype(np.int32)
        self.most, self.heard = most, list[int]()

    def allow(self, bits: np.ndarray) -> bool:
        bits[:] = self.bits
        return len(self.heard) < self.most

    def hear(self, token: int) -> None:
        self.heard.append(token)


def test_a_guided_answer_keeps_to_what_is_allowed_and_changes_no_other(engine: Engine) -> None:
    drawing = Drawing(9, 1.1, report=True)
    alone = ask(engine, prompt(0), 30, drawing)
    alone.wait()
    passing = [3, 31, 32, 63, CONFIG.vocabulary - 1]
    guided = Heard(prompt(1), 21, Drawing(1, 2.0), choices=2)
    guided.question.guides = [Only(passing), Only([5])]
    greedy = Heard(prompt(1), 9)
    greedy.question.guides = [Only([7])]
    lost = Heard(prompt(2), 30)
    lost.question.guides = [Only(passing, most=11)]
    for one in (guided, greedy, lost):
        engine.ask(one.question)
    among = ask(engine, prompt(0), 30, drawing)
    first, second = guided.wait()
    assert set(first) <= set(passing) and len(set(first)) > 2 and len(first) == 21 and second == [5] * 21
    assert guided.question.guides[0].heard[:21] == first and greedy.wait() == [[7] * 9]  # type: ignore[attr-defined]
    lost.wait()
    assert lost.ends == {0: "stuck"} and engine.faults == 0
    among.wait()
    assert among.tokens == alone.tokens  # log-probabilities with them


def test_a_guide_may_end_an_answer() -> None:
    with running(stop=5) as engine:
        heard = Heard(prompt(1), 30)
        heard.question.guides = [Only([5])]
        engine.ask(heard.question)
        assert heard.wait() == [[]] and heard.ends == {0: "stop"} and heard.question.guides[0].heard == [5]  # type: ignore[attr-defined]


def test_seeds_and_choices_are_drawn_apart(engine: Engine) -> None:
    one, again, other, high = (ask(engine, prompt(1), 20, Drawing(seed), choices=3) for seed in (7, 7, 8, 7 + 2**40))
    assert one.wait() == again.wait()
    every = [*one.wait(), *other.wait(), *high.wait()]
    assert len({tuple(answer) for answer in every}) == 9


def test_log_probs_are_those_of_the_trainer_whatever_is_drawn_how(engine: Engine) -> None:
    heard = ask(engine, prompt(2), 20, Drawing(3, 1.7, top_k=30, report=True))
    [numbers] = heard.wait()
    batch = AnswerBatch(*(np.array(x, np.int32) for x in ([prompt(2)], [len(prompt(2))], [[numbers]], [[20]])))
    wanted = np.asarray(jax.jit(answer_log_probs, static_argnums=1)(policy(), CONFIG, batch, 1.0)[0])[0, 0]
    close(np.array([token.log_prob for token in heard.tokens[0]]), wanted, 1e-5)
    for token in heard.tokens[0]:
        numbers, log_probs = zip(*token.tops, strict=True)
        assert len(set(numbers)) == slots.TOPS and list(log_probs) == sorted(log_probs, reverse=True)
        assert dict(token.tops).get(token.number, token.log_prob) == token.log_prob <= log_probs[0]


def test_the_narrowest_cuts_leave_the_likeliest_token(engine: Engine) -> None:
    greedy = ask(engine, prompt(3), 20).wait()
    for drawing in (Drawing(1, 1.0, top_k=1), Drawing(2, 1.0, top_p=1e-6)):
        assert ask(engine, prompt(3), 20, drawing).wait() == greedy
    assert ask(engine, prompt(3), 20, Drawing(2, 1.0)).wait() != greedy


def test_each_row_is_cut_by_its_own_rule_and_others_not_at_all() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 1, 96)).astype(np.float32)
    rules = [(0, 1.0), (3, 1.0), (0, 0.4), (20, 0.7), (96, 0.999)]
    top_k, top_p = (np.array(x)[:, None] for x in zip(*rules, strict=True))
    found = np.asarray(jax.jit(draw.cut)(logits, top_k, top_p.astype(np.float32)))
    for row, (k, p) in enumerate(rules):
        order = np.sort(logits[row, 0])[::-1]
        mass = np.exp(order[: k or None].astype(np.float64))
        kept = int(np.searchsorted(np.cumsum(mass) / mass.sum(), p)) + 1 if p < 1 else len(mass)
        assert (found[row] == np.where(logits[row] >= order[kept - 1], logits[row], draw.NOTHING)).all()
    assert (np.asarray(draw.cut(logits, np.zeros_like(top_k), np.ones_like(top_p))) == logits).all()


def test_a_stop_token_ends_an_answer_and_is_not_told() -> None:
    free = rolled(prompt(4), 30)
    stop = free[11]
    with running(stop=stop) as engine:
        heard = ask(engine, prompt(4), 30)
        assert heard.wait() == [free[: free.index(stop)]] and heard.ends == {0: "stop"}
        short = ask(engine, prompt(4), free.index(stop))  # the limit comes right before it
        assert short.wait() == [free[: free.index(stop)]] and short.ends == {0: "length"}


def test_answers_to_one_question_share_its_reading(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    original = slots.read
    monkeypatch.setattr(slots, "read", lambda *given: reads.append(1) or original(*given))
    heard = ask(engine, prompt(5), 9, choices=7)  # more than there are slots
    assert heard.wait() == [rolled(prompt(5), 9)] * 7 and len(reads) == 1
    assert heard.question.prefix is None


def test_more_than_may_wait_is_refused_and_what_is_dropped_makes_room() -> None:
    with running(count=2, queue=2) as engine:
        endless = [ask(engine, prompt(6)[:5], 90) for _ in range(4)]
        with pytest.raises(Full):
            ask(engine, prompt(6)[:5], 90)
        for heard in endless:
            engine.drop(heard.question, [0])
        until(lambda: engine.running + engine.waiting == 0)
        assert ask(engine, prompt(6)[:5], 9).wait() == [rolled(prompt(6)[:5], 9)]
        assert not any(heard.ends for heard in endless)


def test_a_device_that_fails_costs_the_answers_under_way_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(count=2) as engine:
        original, calls = slots.go_on, []

        def failing(*given: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                original(*given)  # which takes the cache with it
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return original(*given)

        monkeypatch.setattr(slots, "go_on", failing)
        lost = [ask(engine, prompt(7), 30) for _ in range(3)]
        for heard in lost:
            heard.wait()
            assert heard.ends == {0: "error"}
        assert ask(engine, prompt(7), 30).wait() == [rolled(prompt(7), 30)] and engine.faults == 1


def test_other_work_is_done_between_blocks_and_its_faults_are_its_own(engine: Engine) -> None:
    heard = ask(engine, prompt(8), 30)
    assert engine.work(lambda: threading.current_thread().name).result(60) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.work(lambda: 1 // 0).result(60)
    assert heard.wait() == [rolled(prompt(8), 30)]


def test_an_engine_that_ends_says_so_to_all() -> None:
    with running(count=2) as engine:
        heard = [ask(engine, prompt(9)[:5], 90) for _ in range(5)]
        engine.close()
        for one in heard:
            one.wait()
        assert {"error"} >= {end for one in heard[2:] for end in one.ends.values()}
        with pytest.raises(Full):
            ask(engine, prompt(9), 5)


def test_memory_is_what_it_was_after_any_number_of_answers(engine: Engine) -> None:
    def wave() -> tuple[int, int]:
        for one in [ask(engine, prompt(n), 1 + n % 7, Drawing(n, report=n % 2 == 0), choices=1 + n % 3) for n in range(25)]:
            one.wait()
        until(lambda: engine.running == 0)
        engine.work(lambda: None).result()  # what the last block said is let go only then
        gc.collect()  # what errors of earlier tests hold
        live = jax.live_arrays()
        return len(live), sum(x.nbytes for x in live)

    first = wave()
    assert [wave() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize(("fsdp", "tp"), [(4, 2), (2, 4)])
def test_a_mesh_changes_nothing(fsdp: int, tp: int, engine: Engine) -> None:
    mesh = make_mesh(fsdp, tp)
    drawing = Drawing(5, 0.8, top_p=0.9, report=True)
    with jax.set_mesh(mesh):
        params = settled(jax.device_put(policy(), shardings(mesh, transformer.axes(CONFIG))))
    with running(count=8, params=params, mesh=mesh) as spread:
        heard = [ask(spread, prompt(n), 20, drawing, choices=2) for n in range(6)]
        for one, n in zip(heard, range(6), strict=True):
            wanted = ask(engine, prompt(n), 20, drawing, choices=2)
            assert one.wait() == wanted.wait()
            for choice in range(2):
                close(*(np.array([token.log_prob for token in each.tokens[choice]]) for each in (one, wanted)), 1e-5)


def test_the_lengths_that_are_compiled_are_few_and_hold_all() -> None:
    for longest in (2, 32, 33, 100, 2048, 5000):
        found = slots.lengths(longest)
        assert found == sorted(set(found)) and longest <= found[-1] < longest + slots.SHORTEST and len(found) <= 3 + np.log2(longest)
    assert jnp.size(jax.tree.leaves(slots.empty(CONFIG, 2, 100, "float32"))[0]) == 2 * CONFIG.kv_heads * CONFIG.head * 128
