"""What all requests share: the engine, the tokenizer, the limits, what is counted; and how messages become tokens."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError

from promedical_jax.data.encode import encode_messages
from promedical_jax.errors import InputError
from promedical_jax.reward import RewardJudge
from promedical_jax.serve.engine import Engine
from promedical_jax.serve.protocol import ChatMessage, Fault
from promedical_jax.serve.recipe import ServeConfig

if TYPE_CHECKING:
    from promedical_jax.serve.grammar import Grammars

Made = TypeVar("Made")


@dataclass(eq=False)
class Service:
    """`encoder` and `tokenizer` are the same one, opened twice: encoding with control tokens as letters sets a switch in it, so one thread alone encodes."""

    config: ServeConfig
    engine: Engine
    encoder: Any
    tokenizer: Any
    grammars: "Grammars"
    judge: RewardJudge | None = None
    key: str | None = None
    started: int = 0  # seconds since 1970
    open: int = 0  # requests under way
    ending: bool = False  # no more are taken
    counts: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))  # by figure, and its labels
    _encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "encoding"))

    @property
    def name(self) -> str:
        return self.config.called

    def check_model(self, name: str) -> None:
        if name != self.name:
            raise Fault(404, f"the model {name!r} is not served here; the one that is is called {self.name!r}", "model_not_found")

    async def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The tokens that an answer follows. Raises Fault for what the chat template does not take, and for too many."""
        plain = [message.plain() for message in messages]
        try:
            tokens = await self.in_encoder(encode_messages, plain, self.encoder, "messages")
        except (TemplateError, InputError) as error:
            raise Fault(400, f"the model's chat template does not take these messages: {error}; change their roles or order") from None
        self.check_length(len(tokens), "the instruction")
        return tokens

    async def in_encoder(self, encode: Callable[..., Made], *given: Any) -> Made:
        """What `encode` returns, in the one thread that encodes."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, encode, *given)

    def check_length(self, tokens: int, what: str) -> None:
        if tokens >= self.config.longest:
            raise Fault(400, f"{what} has {tokens} tokens, and with its answer there is room for {self.config.longest}; shorten it", "context_length_exceeded")

    def figures(self) -> str:
        """In the text format of Prometheus."""
        gauges = {"running": self.engine.running, "waiting": self.engine.waiting, "slots": self.engine.count, "requests_open": self.open}
        counts = self.counts | {("device_faults_total", ""): float(self.engine.faults)}
        lines = [f"# TYPE promedical_{name} gauge\npromedical_{name} {value}" for name, value in gauges.items()]
        for name in sorted({name for name, _ in counts}):
            rows = [f"promedical_{name}{labels} {counts[name, labels]:.10g}" for known, labels in sorted(counts) if known == name]
            lines += [f"# TYPE promedical_{name} counter", *rows]
        return "\n".join(lines) + "\n"
