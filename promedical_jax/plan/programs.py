"""The programs that a stage really runs, with the shapes and places of their arguments in the arguments' place."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promedical_jax.config import GrpoConfig, Optimizer, RmConfig
from promedical_jax.model import lora, transformer
from promedical_jax.model.heads import HEADS_AXES, init_heads
from promedical_jax.model.layout import tree
from promedical_jax.model.sharding import bytes_here, parts, shardings
from promedical_jax.model.transformer import Compute, Dtype, ModelConfig, Remat
from promedical_jax.plan import flops
from promedical_jax.reward import TIERS, RewardBatch, jit_score
from promedical_jax.rollout import longest
from promedical_jax.rollout.memory import waves
from promedical_jax.rubric.labels import Labels
from promedical_jax.train import grpo, rm, sft
from promedical_jax.train.grpo_loss import Before
from promedical_jax.train.optimizer import TrainState, first_state, make_optimizer, state_shardings
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

StageName = Literal["sft", "rm", "score", "reference", "grpo", "rollout"]
NOWHERE = Path()  # no file is read
STEPS = 1000  # of the schedule: it changes no shape
TEMPERATURE = 1.0  # nor does this


@dataclass(frozen=True)
class Shapes:
    """A batch: B cases, P instruction tokens, G answers of R tokens, K criteria of C tokens."""

    batch: int
    prompt: int
    answers: int
    answer: int
    criteria: int
    criterion: int


@dataclass(frozen=True)
class Choices:
    """What a recipe may choose without changing the data."""

    lora: int = 0  # rank; 0 trains all parameters
    remat: Remat = "full"
    weights: str = "float32"
    dtype: Dtype = "bfloat16"
    shared: bool = False  # with `lora`: the reward model too is an adapter, on the same base


@dataclass(frozen=True)
class Program:
    """A jitted function with abstract arguments, and a device's bytes by what they are; `beside` is what the run keeps there that this program never sees."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    parameters: int
    optimizer: int
    beside: int
    tokens: int  # in the batch, padding included
    work: flops.Work
    waves: int = 1  # how often the step runs it, each time with another part of the batch


def build(stage: StageName, model: ModelConfig, mesh: Mesh, shapes: Shapes, choices: Choices, memory: float) -> Program:
    """The program of one step of a stage on devices of `memory` bytes. Compile what it gives under `jax.set_mesh(mesh)`, and call this outside."""
    programs = {"sft": _sft, "rm": _rm, "score": _score, "reference": _reference, "grpo": _grpo}
    room = _Room(model, mesh, shapes, choices)
    return _rollout(room, memory) if stage == "rollout" else programs[stage](room)


class _Room:
    """A model on a mesh, all abstract: what the stages' programs are made of."""

    def __init__(self, model: ModelConfig, mesh: Mesh, shapes: Shapes, choices: Choices):
        self.mesh, self.shapes, self.choices = mesh, shapes, choices
        self.compute = Compute(choices.dtype, choices.remat)
        self.optimizer = make_optimizer(Optimizer(), STEPS)
        self.model = replace(model, adapter_scale=2.0) if choices.lora else model
        self.backbone = self.placed(transformer.shapes(model), transformer.axes(model))

    def placed(self, values: Any, axes: Any, dtype: str | None = None) -> Any:
        where = shardings(self.mesh, axes)
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=place), values, where)

    def tokens(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((self.shapes.batch, *shape), dtype, sharding=shardings(self.mesh, ("batch",)))

    def frozen(self) -> Any:
        """The backbone in the type that products compute in: the base of adapters, a reference, a judge."""
        return self.placed(self.backbone, transformer.axes(self.model), self.choices.dtype)

    def judge(self) -> tuple[Any, Any]:
        """The parameters of GRPO's reward model, and what of them a run holds only for it: all its backbone, or its adapter beside the policy's base."""
        frozen, heads = self.frozen(), self.heads()
        if not self.choices.shared:
            return {"backbone": frozen, "heads": heads}, frozen
        adapters = self.adapters()
        return {"backbone": lora.join(frozen, adapters), "heads": heads}, (adapters, heads)

    def adapters(self) -> Any:
        shapes = {"adapters": lora.shapes(self.model, self.choices.lora, lora.TARGETS)}
        return self.placed(shapes, {"adapters": lora.axes(lora.TARGETS)})

    def heads(self) -> Any:
        return self.placed(jax.eval_shape(partial(init_heads, len(TIERS), self.model.width), jax.eval_shape(lambda: jax.random.key(0))), HEADS_AXES)

    def trained(self) -> tuple[Any, Any]:
        """The policy's trained parameters and their axes: all of them, or adapters for every matrix."""
        if not self.choices.lora:
            return self.backbone, transformer.axes(self.model)
        return self.adapters(), {"adapters": lora.axes(lora.TARGETS)}

    def state(self, trained: Any, axes: Any) -> tuple[TrainState, TrainState]:
        where = state_shardings(self.mesh, axes, self.optimizer, trained, self.choices.weights)
        first = jax.eval_shape(lambda params: first_state(params, self.optimizer, self.choices.weights), trained)
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), first, where), where

    def answers(self) -> AnswerBatch:
        s = self.shapes
        return AnswerBatch(self.tokens(s.prompt), self.tokens(), self.tokens(s.answers, s.answer), self.tokens(s.answers))

    def program(self, function: Callable[..., Any], arguments: tuple[Any, ...], parameters: Any, optimizer: Any, work: flops.Work, tokens: int,
                beside: Any = (), **keywords: Any) -> Program:  # fmt: skip
        sizes = (bytes_here(parameters), bytes_here(optimizer), bytes_here(beside))
        return Program(function, arguments, keywords, *sizes, self.shapes.batch * tokens, work)


def _sft(room: _Room) -> Program:
    s, c = room.shapes, room.choices
    state, where = room.state(*room.trained())
    frozen = room.frozen() if c.lora else {}
    layout = tree(s.prompt, (s.answers, s.answer))
    step = sft.make_step(room.model, room.compute, room.optimizer, where)
    work = flops.update(room.model, layout, s.batch, s.answers * s.answer, c.remat, bool(c.lora))
    return room.program(step, (state, frozen, room.answers()), (state.params, frozen), (state.masters, state.moments), work, layout.tokens)


def _reward_batch(room: _Room) -> RewardBatch:
    s = room.shapes
    return RewardBatch(*room.answers()[:4], room.tokens(s.criteria, s.criterion), room.tokens(s.criteria), room.tokens(s.criteria))


def _rm(room: _Room) -> Program:
    s, c = room.shapes, room.choices
    trained, axes = room.trained()
    state, where = room.state({"backbone": trained, "heads": room.heads()}, {"backbone": axes, "heads": HEADS_AXES})
    frozen = {"backbone": room.frozen()} if c.lora else {}
    layout = tree(s.prompt, (s.answers, s.answer), (s.criteria, s.criterion))
    step = rm.make_step(RmConfig(out=NOWHERE, cases=NOWHERE, model=NOWHERE), room.model, room.compute, room.optimizer, where)
    each, pairs = (room.tokens(*shape, s.answers, s.criteria, dtype=jnp.float32) for shape in ((), (s.answers,)))
    labels = Labels(each, each, pairs, pairs)
    work = flops.update(room.model, layout, s.batch, 0, c.remat, bool(c.lora))
    return room.program(step, (state, frozen, _reward_batch(room), labels), (state.params, frozen), (state.masters, state.moments), work, layout.tokens)


def _score(room: _Room) -> Program:
    s = room.shapes
    params, _ = room.judge()
    layout = tree(s.prompt, (s.answers, s.answer), (s.criteria, s.criterion))
    work = flops.forward(room.model, layout, s.batch)
    policy = room.state(*room.trained())[0] if room.choices.shared else ()  # who shares the weights is there; else this may be another run
    return room.program(jit_score, (params, room.model, _reward_batch(room)), params, (), work, layout.tokens, policy, compute=room.compute)


def _reference(room: _Room) -> Program:
    """What the start of the policy says of the answers, before the update: with adapters the frozen base, else a copy of the policy's first weights."""
    s = room.shapes
    state, _ = room.state(*room.trained())
    layout = tree(s.prompt, (s.answers, s.answer))
    start = room.frozen()
    arguments = (start, room.model, room.answers(), TEMPERATURE, room.compute)
    work = flops.forward(room.model, layout, s.batch, s.answers * s.answer)
    return room.program(frozen_log_probs, arguments, start, (), work, layout.tokens, (state, room.judge()[1]))  # beside: the policy, the judge


def _grpo(room: _Room) -> Program:
    s, c = room.shapes, room.choices
    state, where = room.state(*room.trained())
    frozen = room.frozen() if c.lora else {}
    layout = tree(s.prompt, (s.answers, s.answer))
    settings = GrpoConfig(out=NOWHERE, cases=NOWHERE, model=NOWHERE, reward_model=NOWHERE, temperature=TEMPERATURE)
    step = grpo.make_step(settings, room.model, room.compute, room.optimizer, where)
    log_probs, advantages = room.tokens(s.answers, s.answer, dtype=jnp.float32), room.tokens(s.answers, dtype=jnp.float32)
    arguments = (state, frozen, room.answers(), Before(log_probs, log_probs), advantages)
    work = flops.update(room.model, layout, s.batch, s.answers * s.answer, c.remat, bool(c.lora))
    beside = (room.judge()[1], () if c.lora else room.frozen())  # the judge, the reference
    return room.program(step, arguments, (state.params, frozen), (state.masters, state.moments), work, layout.tokens, beside)


def _rollout(room: _Room, memory: float) -> Program:
    s, c, mesh = room.shapes, room.choices, room.mesh
    state, _ = room.state(*room.trained())
    policy = lora.join(room.frozen(), state.params) if c.lora else state.params
    beside = (state.masters, state.moments, room.judge()[1], () if c.lora else room.frozen())  # the optimizer's, the judge, the reference
    tp, free = mesh.shape["tp"], memory - bytes_here((policy, beside))
    count = waves(room.model, s.batch // parts(mesh, "batch"), s.prompt, s.answers, s.answer, c.dtype, tp, free)
    wave = _Room(room.model, mesh, replace(s, batch=s.batch // count), c)
    key = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    arguments = (policy, room.model, wave.tokens(s.prompt), wave.tokens(), key, wave.tokens())
    function = jax.jit(longest, static_argnames=("config", "answers", "answer_tokens", "stop", "compute"))  # no answer ends before R: the most that it costs
    work = flops.rollout(room.model, s.batch, s.prompt, s.answers, s.answer, mesh.size // tp * count)
    done = room.program(function, arguments, policy, (), work, s.prompt + s.answers * s.answer, beside, answers=s.answers, answer_tokens=s.answer, stop=0,
                        compute=room.compute)  # fmt: skip
    return replace(done, waves=count)
