"""Many questions to an OpenAI-compatible endpoint at a time, each for a reply of a given form; None where no sound one comes.

A reply must be the JSON of the form that was asked for. What hangs, is overloaded or fails is asked again after a pause, what replies with something else is
told what was wrong with it, a few times each; who failed has said nothing (see docs/decisions.md). A sound reply and its cost are in the SQLite file before the
next is looked at, so that a run that is killed pays for no reply twice, and the file knows what has been spent.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import count
from time import monotonic
from typing import Any

import httpx2
from pydantic import BaseModel, ValidationError

from promedical_jax.asking.form import Ask, Messages, Plain, again, read_reply
from promedical_jax.asking.store import Store, Tokens
from promedical_jax.config import Endpoint
from promedical_jax.errors import InputError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; each pause is twice the one before it
AGAIN = {408, 409, 425, 429}  # and all from 500 on
OF_THE_QUESTION = {400, 413, 422}  # too long, or not to its taste, once others were replied to; before that, the recipe's fault
NO_TEXT = (ValueError, LookupError, TypeError, RecursionError, OverflowError)  # what reading somebody's reply may raise
SECRET = 16  # letters; a shorter key, such as EMPTY, is a word that stands in replies by itself
LETTERS_A_TOKEN = 4  # where an endpoint does not say what a reply cost
MILLION = 1_000_000


class Asker:
    """Asks of one endpoint. `counts` since the start: asked, cached, failed, tokens, and what went wrong by cause, each time it did."""

    def __init__(self, config: Endpoint, where: str = "judge", transport: httpx2.AsyncBaseTransport | None = None,
                 pause: Callable[[float], Awaitable[None]] = asyncio.sleep, patience: int | None = None):  # fmt: skip
        """`where`: the recipe's place of `config`, for messages. `transport` and `pause` stand in for the network and the clock in tests. `patience`: after so
        many questions in a row to which nobody replied at all, asking ends with an InputError; None: never.

        Raises InputError for a url that is none, a key's variable that is not set or no key, and for a cache that is none.
        """
        assert config.url and config.model
        hosts = [_host(config.url, f"{where}.url"), *(_host(url, f"{where}.replicas") for url in config.replicas)]
        self._addresses, self._turns = [f"{url.rstrip('/')}/chat/completions" for url in (config.url, *config.replicas)], count()
        self._patience, self._silent, self._sound = patience, 0, False
        self._config, self._where, self._transport, self._pause = config, where, transport, pause
        self._headers, self._key_forms = dict[str, str](), tuple[str, ...]()
        self._trusting = not all(re.fullmatch(r"localhost|127\..*|::1", host) for host in hosts)  # what is for this machine goes through no proxy
        if config.key:
            if not os.environ.get(config.key):
                raise InputError(f"{where}.key: the environment has no {config.key}; set it to the endpoint's key, or leave {where}.key out")
            key = os.environ[config.key].strip()
            if not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(f"{where}.key: what {config.key} holds is no key; set it to the endpoint's key alone")
            self._headers = {"Authorization": f"Bearer {key}"}
            self._key_forms = (key, json.dumps(key)[1:-1], key.replace("/", r"\/"))  # as JSON may write it, too
        self._store = Store(config.cache, f"{where}.cache")
        self._next = 0.0  # when the next request may go out
        self._held: Counter[Tokens] = Counter()  # what each request that is under way may cost at most
        self._stopped: InputError | None = None
        self._freed = asyncio.Condition()
        self.counts: Counter[str] = Counter()

    def __call__(self, asks: Sequence[Ask], tell: Callable[[int, int], None] = lambda done, of: None) -> list[BaseModel | None]:
        """The replies in order; the same question is asked once. `tell` hears after each that is asked now how many are done, and of how many.
        Raises InputError where the endpoint refuses to be asked at all, or the budget is spent."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._ask_all(asks, tell))
        with ThreadPoolExecutor(1) as apart:  # a notebook has an event loop already
            return apart.submit(asyncio.run, self._ask_all(asks, tell)).result()

    def left(self, asks: Sequence[Ask]) -> tuple[int, int, float]:
        """How many of these would be asked now, and about how many tokens and how much money they cost, if each is replied to at full length."""
        new = {key: ask for key, ask in ((self._key(ask), ask) for ask in asks) if self._known(key, ask) is None}
        tokens = sum(_tokens(ask.messages) for ask in new.values()), len(new) * self._config.max_tokens
        return len(new), sum(tokens), self._price(tokens)

    def spent(self) -> float:
        """What this endpoint has cost so far, in money, over all runs with this cache."""
        return self._price(self._store.spent(self._endpoint))

    async def _ask_all(self, asks: Sequence[Ask], tell: Callable[[int, int], None]) -> list[BaseModel | None]:
        keys = [self._key(ask) for ask in asks]
        known = {key: self._known(key, ask) for key, ask in zip(keys, asks, strict=True)}
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if known[key] is None}
        self.counts["cached"] += sum(key not in new for key in keys)
        limits, waiting, done = httpx2.Limits(max_connections=self._config.concurrency), iter(new.items()), count(1)
        async with httpx2.AsyncClient(transport=self._transport, headers=self._headers, timeout=self._config.timeout, limits=limits,
                                       trust_env=self._trusting) as client:  # fmt: skip

            async def work() -> None:
                for key, ask in waiting:  # which all who work take from
                    try:
                        known[key] = self._known(key, ask) or await self._ask(client, key, ask)  # another run may have asked since
                    except InputError as error:
                        self._stopped = self._stopped or error
                        return
                    self.counts["asked"] += 1
                    self.counts["failed"] += known[key] is None
                    tell(next(done), len(new))

            self._stopped, self._freed = None, asyncio.Condition()
            await asyncio.gather(*(work() for _ in range(self._config.concurrency)))
        if self._stopped:
            raise self._stopped
        return [known[key] for key in keys]

    async def _ask(self, client: httpx2.AsyncClient, key: str, ask: Ask) -> BaseModel | None:
        """One sound reply; None where none came in so many tries."""
        messages, first = ask.messages, next(self._turns)
        for tried in range(self._config.retries + 1):
            wait = FIRST_PAUSE * 2**tried
            most, answered = await self._turn(messages), False
            try:
                async with asyncio.timeout(self._config.timeout):  # of the whole reply: one that trickles in forever hangs as well
                    reply = await client.post(self._addresses[(first + tried) % len(self._addresses)], json=self._body(messages, ask.form))
            except (httpx2.TimeoutException, TimeoutError):
                self.counts["timeouts"] += 1
                self._keep(_tokens(messages), 0)  # who hung may have been at work
            except httpx2.RequestError:
                self.counts["unreachable"] += 1
            else:
                answered = reply.status_code < 500
                if reply.status_code < 300:
                    content = self._masked(_content(reply), SECRET)
                    cost = _usage(reply) or (_tokens(messages), len(content) // LETTERS_A_TOKEN)
                    try:
                        read = read_reply(content, ask.form)
                    except ValidationError as error:
                        self.counts["garbage"] += 1
                        self._keep(*cost)
                        messages = again(ask, content, error)
                    else:
                        self._keep(*cost, reply=(key, content))
                        self._sound, self._silent = True, 0
                        return read
                elif reply.status_code in AGAIN or reply.status_code >= 500:
                    self.counts[f"status {reply.status_code}"] += 1
                    wait = max(wait, _retry_after(reply))
                elif reply.status_code in OF_THE_QUESTION and self._sound:
                    self.counts[f"status {reply.status_code}"] += 1
                    return None
                else:
                    why = self._masked(reply.text)[:200]
                    place = f"{self._where}.url: {self._config.url}"
                    raise InputError(f"{place} answers {reply.status_code}: {why!r}; check url, model and key of {self._where}")
            finally:
                self._held[most] -= 1
                async with self._freed:
                    self._freed.notify_all()
            self._silent = 0 if answered else self._silent
            if tried < self._config.retries:
                await self._pause(min(wait, LONGEST_PAUSE))
        self._silent += not answered
        if self._patience is not None and self._silent >= self._patience:
            what = f"{self._where}.url: {self._config.url} has replied to none of the last {self._silent} questions"
            raise InputError(f"{what}; see that it runs, and run again: what was replied is kept")
        return None

    async def _turn(self, messages: Messages) -> Tokens:
        """Waits for the request's turn, and returns what it may cost at most. Raises InputError where that cannot be paid for, and once another request was
        refused: those that are under way come to their end, and no more are sent."""
        most = sum(len(message["content"].encode()) + 16 for message in messages), self._config.max_tokens
        async with self._freed:
            while not self._stopped and (held := +self._held) and self._too_much([most, *held.elements()]):
                await self._freed.wait()  # what is under way will cost less than it might
            if self._stopped:
                raise InputError(str(self._stopped))
            if said := self._too_much([most]):
                kept = f"what was replied is in {self._config.cache}" if self._config.cache else f"set {self._where}.cache to keep what is replied"
                raise InputError(f"{said}; raise it and run again ({kept})")
            self._held[most] += 1
        if self._config.per_minute:
            now = monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self._config.per_minute
            if turn > now:
                await self._pause(turn - now)
        return most

    def _too_much(self, costs: Sequence[Tokens]) -> str | None:
        """Whether these are more than a budget has left, in words."""
        spent, more = self._store.spent(self._endpoint), (sum(prompt for prompt, _ in costs), sum(reply for _, reply in costs))
        limits = (("budget", self._config.budget, self._price), ("budget_tokens", self._config.budget_tokens, sum))
        for name, limit, price in limits:
            if limit is not None and price(spent) + price(more) > limit:
                return f"{self._where}.{name}: {price(spent):.4g} of {limit:g} are spent, and the next question may cost {price(more):.2g}"
        return None

    def _masked(self, text: str, least: int = 1) -> str:
        """Without the key, which some endpoints say back; a key of fewer than `least` letters is left."""
        for form in self._key_forms:
            text = text.replace(form, "***") if len(form) >= least else text
        return text

    def _body(self, messages: Messages, form: type[BaseModel]) -> dict[str, Any]:
        body = {"model": self._config.model, "messages": messages, "temperature": 0, "max_tokens": self._config.max_tokens}
        if form is Plain:
            return body
        return body | {"response_format": {"type": "json_schema", "json_schema": {"name": form.__name__.lower(), "strict": True, "schema": _schema(form)}}}

    def _keep(self, prompt_tokens: int, reply_tokens: int, reply: tuple[str, str] | None = None) -> None:
        """Cost and reply in one transaction."""
        self.counts["tokens"] += prompt_tokens + reply_tokens
        self._store.keep(self._endpoint, (prompt_tokens, reply_tokens), reply)

    def _price(self, tokens: Tokens) -> float:
        return (tokens[0] * self._config.price_prompt + tokens[1] * self._config.price_reply) / MILLION

    @property
    def _endpoint(self) -> str:
        return f"{self._config.url} {self._config.model}"

    def _known(self, key: str, ask: Ask) -> BaseModel | None:
        """The reply that is kept; None where there is none, or one that another version of this library took for sound."""
        try:
            return None if (content := self._store.reply(key)) is None else read_reply(content, ask.form)
        except ValidationError:
            return None

    def _key(self, ask: Ask) -> str:
        """Of all that a reply depends on: the endpoint, the question, the form."""
        return sha256(json.dumps([self._endpoint, ask.messages, _schema(ask.form)]).encode()).hexdigest()


def _host(address: str, where: str) -> str:
    """Raises InputError for what is no address."""
    try:
        url = httpx2.URL(address)
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", url.host):
        raise InputError(f"{where}: {address!r} is no address; write it as http://localhost:8000/v1")
    return url.host


def _tokens(messages: Messages) -> int:
    """About."""
    return sum(len(message["content"]) for message in messages) // LETTERS_A_TOKEN


@cache
def _schema(form: type[BaseModel]) -> dict[str, Any]:
    return form.model_json_schema()


def _content(reply: httpx2.Response) -> str:
    """What was replied, empty where it is no text."""
    try:
        content = reply.json()["choices"][0]["message"]["content"]
        content.encode()  # half of a surrogate pair is no letter, and no file takes it
    except (*NO_TEXT, AttributeError):
        return ""
    return content if isinstance(content, str) else ""


def _usage(reply: httpx2.Response) -> tuple[int, int] | None:
    try:
        usage = reply.json()["usage"]
        prompt, completion = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except NO_TEXT:
        return None
    return (prompt, completion) if 0 <= prompt < 2**32 and 0 <= completion < 2**32 else None


def _retry_after(reply: httpx2.Response) -> float:
    """Seconds that the endpoint asks to wait; 0 where it does not say, or names a date."""
    try:
        return max(float(reply.headers.get("retry-after", 0)), 0.0)
    except ValueError:
        return 0.0
