"""Who sits in which slot: one thread that owns the device, and takes answers from a queue, a block of tokens of all of them at a time.

Between two blocks those that are done or not wanted any more leave, those that wait take their places in order, and other work for the device (a reward
model's) is done. While one of them has to keep to a grammar, the block of all is drawn token by token. The `n` answers to one question share its reading. A
fault of the device ends the answers under way with an error, and nothing else.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import jax
import numpy as np

from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.serve import slots
from promedical_jax.serve.slots import BLOCK, Asked, Said

ENDING = 10.0  # seconds that a block, or a program that is being compiled, has left to come to its end
End = Literal["stop", "length", "error", "stuck"]  # stuck: its guide does not know what may come next
Made = TypeVar("Made")


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn, as `slots.Asked` has it."""

    seed: int  # 64 bits
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    report: bool = False


@dataclass(frozen=True)
class Token:
    """One token of an answer; where they are wanted its log-probability, and the most likely tokens with theirs."""

    number: int
    log_prob: float = 0.0
    tops: tuple[tuple[int, float], ...] = ()


log = logging.getLogger(__name__)
Hear = Callable[[int, Sequence[Token], End | None], None]  # which choice, its next tokens, and how it ended if it did


class Guide(Protocol):
    """Says which tokens may come next in one answer."""

    def allow(self, bits: np.ndarray) -> bool:
        """Sets the bits of the tokens that may come next, int32 [V / 32]; false where it cannot say."""
        ...

    def hear(self, token: int) -> None:
        """The token that came, the stop token too."""
        ...


@dataclass(eq=False)
class Question:
    """Some answers to one instruction. `hear` is called in the engine's thread, with a stop token's answer without it."""

    prompt: Sequence[int]
    choices: int
    limit: int
    drawing: Drawing
    hear: Hear
    guides: Sequence[Guide] | None = None  # of each choice, where not every token may follow every other one
    prefix: Any = None  # keys and values, from when the first answer sits until the last one does
    unseated: int = field(init=False)
    dropped: set[int] = field(default_factory=set)  # choices that nobody waits for any more

    def __post_init__(self) -> None:
        self.unseated = self.choices


class Full(Exception):
    """So many answers wait that no more are taken."""


class Engine:
    """Answers by a policy's settled weights (`decode.settle`). `longest`: the most tokens of an instruction and an answer together."""

    def __init__(self, weights: Params, config: ModelConfig, *, count: int, queue: int, longest: int, stop: int, mesh: jax.sharding.Mesh | None = None):
        self.longest, self.count, self.queue = longest, count, queue
        self._weights, self._config, self._stop, self._mesh = weights, config, stop, mesh
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Question, int]] = deque()
        self._seated: list[tuple[Question, int] | None] = [None] * count
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._asked, self._closing = slots.nobody(count), False
        self.faults = 0  # of the device
        with self._in_mesh():
            self._cache = self._empty()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def ask(self, question: Question) -> None:
        """Takes a question; its `hear` is called until every choice has ended. Raises Full."""
        with self._changed:
            if self._closing or self.running + self.waiting + question.choices > self.count + self.queue:
                raise Full
            self._waiting.extend((question, choice) for choice in range(question.choices))
            self._changed.notify()

    def drop(self, question: Question, choices: Sequence[int]) -> None:
        """Nobody waits for these choices any more: they are not heard of again from the next block on, and give their slots back."""
        with self._changed:
            question.dropped.update(choices)
            self._changed.notify()

    def work(self, job: Callable[[], Made]) -> Future[Made]:
        """What `job` returns, called between two blocks in the engine's thread, which alone uses the device."""
        future: Future[Made] = Future()
        with self._changed:
            self._jobs.append((future, job))
            self._changed.notify()
        return future

    @property
    def running(self) -> int:
        return sum(seat is not None for seat in self._seated)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def warm(self) -> None:
        """Compiles all there is to compile."""
        self.work(self._warm).result()

    def close(self) -> None:
        """Ends what is under way as errors, and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(ENDING)

    # In the engine's thread

    def _run(self) -> None:
        with self._in_mesh():
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._waiting or self._jobs or self.running)
                    jobs, closing = [*self._jobs], self._closing
                    self._jobs.clear()
                for future, job in jobs:
                    _settle(future, job)
                if closing:
                    self._fail()
                    return
                try:
                    self._leave()
                    self._take_seats()
                    if self.running:
                        self._go_on()
                except Exception as error:  # of the device, out of memory for instance: whoever it is, the next one is served
                    log.error("the device failed, and the answers under way with it: %s", str(error).partition("\n")[0])
                    self.faults += 1
                    self._fail()
                    self._cache = self._empty()

    def _leave(self) -> None:
        for slot, seat in enumerate(self._seated):
            if seat and seat[1] in seat[0].dropped:
                self._free(slot)
        with self._changed:
            for question, choice in [seat for seat in self._waiting if seat[1] in seat[0].dropped]:
                self._waiting.remove((question, choice))
                question.unseated -= 1

    def _take_seats(self) -> None:
        while None in self._seated and self._waiting:
            with self._changed:
                question, choice = self._waiting.popleft()
                slot = self._seated.index(None)
                self._seated[slot] = question, choice
            *head, last = question.prompt
            if head and question.prefix is None:
                question.prefix = self._read(head)
            if head:
                self._cache = slots.join(self._cache, question.prefix, np.int32(slot))
            question.unseated -= 1
            if not question.unseated:
                question.prefix = None
            drawing = question.drawing
            seed = (drawing.seed >> 32 & 0xFFFFFFFF, drawing.seed & 0xFFFFFFFF, choice)
            row = Asked(last, len(head), 0, True, seed, drawing.temperature, drawing.top_k, drawing.top_p, drawing.report)  # type: ignore[arg-type]
            for array, value in zip(self._asked, row, strict=True):
                array[slot] = value

    def _go_on(self) -> None:
        guides = {slot: seat[0].guides[seat[1]] for slot, seat in enumerate(self._seated) if seat and seat[0].guides}
        if guides:
            self._cache, made = self._guided(guides)
        else:
            self._cache, made = slots.go_on(self._weights, self._config, self._cache, self._asked, self._stop)
        said: Said = jax.device_get(made)
        for slot, seat in enumerate(self._seated):
            if seat:
                question, choice = seat
                numbers = said.tokens[slot, : question.limit - self._asked.drawn[slot]].tolist()
                end: End | None = None
                if self._stop in numbers:
                    numbers, end = numbers[: numbers.index(self._stop)], "stop"
                elif self._asked.drawn[slot] + len(numbers) == question.limit:
                    end = "length"
                if choice not in question.dropped:
                    question.hear(choice, [_token(said, slot, place, question.drawing.report) for place in range(len(numbers))], end)
                if end:
                    self._free(slot)
                else:
                    self._asked.token[slot] = numbers[-1]
                    self._asked.length[slot] += BLOCK
                    self._asked.drawn[slot] += BLOCK

    def _guided(self, guides: dict[int, Guide]) -> tuple[Any, Said]:
        """A block, token by token; an answer whose guide cannot go on ends there."""
        block = slots.open_block(self._weights, self._config, self._asked)
        running, allowed = self._asked.running.copy(), np.empty((self.count, slots.words(self._config.vocabulary)), np.int32)
        for place in range(BLOCK):
            allowed.fill(-1)
            for slot, guide in [*guides.items()]:
                if not guide.allow(allowed[slot]):
                    allowed[slot], running[slot] = -1, False
                    del guides[slot]
                    question, choice = self._seated[slot]  # type: ignore[misc]
                    self._free(slot)
                    question.hear(choice, (), "stuck")
            block = slots.extend(self._weights, self._config, self._cache, self._asked, block, allowed, self._stop)
            tokens = np.asarray(block.said.tokens)[:, place]
            running &= tokens != self._stop
            for slot, guide in [*guides.items()]:
                guide.hear(int(tokens[slot]))
                if not running[slot]:
                    del guides[slot]
            if not running.any():
                break
        return slots.close_block(self._cache, self._asked, block)

    def _read(self, tokens: Sequence[int]) -> Any:
        padded = np.zeros(next(length for length in slots.lengths(self.longest) if length >= len(tokens)), np.int32)
        padded[: len(tokens)] = tokens
        return slots.read(self._weights, self._config, padded, np.int32(len(tokens)))

    def _warm(self) -> None:
        for length in slots.lengths(self.longest):
            self._cache = slots.join(self._cache, self._read([0] * length), np.int32(0))
        self._asked.running[0] = True
        for go_on in (lambda: slots.go_on(self._weights, self._config, self._cache, self._asked, self._stop), lambda: self._guided({})):
            self._cache, said = go_on()
            jax.block_until_ready(said)
        self._free(0)

    def _fail(self) -> None:
        with self._changed:
            lost = [*filter(None, self._seated), *self._waiting]
            self._waiting.clear()
        for slot in range(self.count):
            self._free(slot)
        for question, choice in lost:
            question.prefix = None
            question.hear(choice, (), "error")

    def _free(self, slot: int) -> None:
        self._seated[slot] = None
        for array, blank in zip(self._asked, slots.nobody(1), strict=True):
            array[slot] = blank[0]

    def _empty(self) -> Any:
        return slots.empty(self._config, self.count, self.longest, str(self._weights["embed"].dtype))

    def _in_mesh(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


def _token(said: Said, slot: int, place: int, report: bool) -> Token:
    number = int(said.tokens[slot, place])
    if not report:
        return Token(number)
    tops = zip(said.top_tokens[slot, place].tolist(), said.top_log_probs[slot, place].tolist(), strict=True)
    return Token(number, float(said.log_probs[slot, place]), tuple(tops))


def _settle(future: Future[Any], job: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
