"""What training on a policy's own answers has in common, whatever the objective: sample them, have them judged, keep the ledger."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from promedical_jax.answering import Sampled
from promedical_jax.asking import EndpointJudge
from promedical_jax.cluster import agree, chief, together
from promedical_jax.config import OnPolicy
from promedical_jax.data.batches import to_devices
from promedical_jax.data.encode import Encoded, stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.sharding import bytes_here
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.reward import RewardBatch, RewardModel, check_reward_model, load_reward_model
from promedical_jax.reward.folder import check_adapted, load_adapted, read_verdicts
from promedical_jax.rollout import Rollout, sample
from promedical_jax.rollout.memory import memory_of_a_device, waves
from promedical_jax.rubric import Case, Judge
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.functions import Functions, find_functions
from promedical_jax.train.guards import Alarms
from promedical_jax.train.ledger import Ledger
from promedical_jax.train.policy import AnswerBatch
from promedical_jax.train.rewards import Judged, ask, call, check_kind, judge
from promedical_jax.train.stage import Setup, check_fits
from promedical_jax.train.watch import Watch, watched_cases


class Judges(NamedTuple):
    """Who judges the answers, looked at before anything is compiled: the reward model's folder, the second judge and the functions, of those there are."""

    folder: Path | None
    endpoint: EndpointJudge | None
    functions: Functions
    watched: list[Encoded] | None  # held-out cases to look at


def find_judges(config: OnPolicy, setup: Setup, truth: Judge | None = None) -> Judges:
    """Raises InputError where the reward model, the policy and the recipe do not go together."""
    folder = _find_reward_model(config, config.reward_model, setup) if config.reward_model else None
    if not setup.source.has_weights():
        raise InputError(f"{config.model}: no weights; this stage starts from a trained policy (see `promedical train sft`)")
    with together():
        watched = watched_cases(config, setup.tokenizer, {case.case.id for case in setup.cases}, truth) if config.watch.cases else None
        return Judges(folder, EndpointJudge(config.judge) if config.judge.url else None, find_functions(config.functions), watched)


def _find_reward_model(config: OnPolicy, name: Path, setup: Setup) -> Path:
    if hf.is_adapter(name):
        folder = name
        check_shares(config, folder, setup.model)
    else:
        folder = hf.resolve(name)
        model = hf.read_config(folder)
        check_fits(setup.mesh, model, config.batch)
        check_reward_model(folder)
        if load_tokenizer(folder, model.vocabulary).get_vocab() != setup.tokenizer.get_vocab():
            raise InputError(f"{name}: its tokenizer differs from that of {config.model}; both must read the same tokens")
    check_kind(config, read_verdicts(folder).kind)
    return folder


def check_shares(config: OnPolicy, folder: Path, model: ModelConfig) -> None:
    """Raises InputError where the recipe's reward model is an adapter, in `folder`, that cannot share the policy's weights."""
    if not config.lora.rank:
        whole = "set lora.rank, or give the reward model's `model` folder"
        raise InputError(f"{folder}: is an adapter, for policies that share its frozen base; {whole}")
    check_adapted(folder, config.model, model)


def _load(folder: Path, config: OnPolicy, setup: Setup, frozen: Params) -> RewardModel:
    shares = hf.is_adapter(folder)
    model = load_adapted(folder, frozen, setup.model, setup.mesh) if shares else load_reward_model(folder, setup.mesh, config.dtype)
    check_tree("the reward model", model.params["backbone"], model.config, setup.compute)
    return model


class Rollouts:
    """Batch after batch of sampled and judged answers, with their ledger, and the watch over where they lead."""

    def __init__(self, config: OnPolicy, setup: Setup, model: ModelConfig, judges: Judges, prompt: int, frozen: Params, held: Any, truth: Judge | None):
        """`prompt`: the longest instruction; `frozen`: the weights that policies of LoRA adapt, where the reward model may be another adapter's; `held`:
        what else the run holds but for those who judge: the memory for sampling is what they all leave."""
        self._config, self._setup, self._model, self._judges = config, setup, model, judges
        self._reward_model = _load(judges.folder, config, setup, frozen) if judges.folder else None
        self._watch = Watch(config, setup, model, judges.watched, truth) if judges.watched else None
        held = (held, frozen, self._reward_model.params if self._reward_model else (), self._watch.held if self._watch else ())
        self._waves = rollout_waves(config, model, setup.mesh, prompt, config.answers, held)
        if self._watch:
            self._watch.waves = rollout_waves(config, model, setup.mesh, self._watch.prompt, config.watch.answers, held)
        self._ledger = Ledger(config, self._reward_model, truth)
        self.alarms = Alarms(config)

    def __call__(self, policy: Params, host: dict[str, Any], number: int) -> tuple[AnswerBatch, Sampled, Judged]:
        """The answers of the batch `host` of step `number`, from 0: on the devices, as they were sampled, and judged. A function of (seed, step, case)."""
        cases = self._cases(host)
        placed, rollout = roll_out(self._config, self._setup, self._model, policy, host, number, self._waves)
        batch = RewardBatch(placed["prompt"], placed["prompt_length"], rollout.tokens, rollout.lengths, placed["criteria"], placed["criterion_lengths"],
                            placed["tiers"])  # fmt: skip
        sampled, endpoint = Sampled(rollout, self._setup.tokenizer), self._judges.endpoint
        heard = ask(endpoint, sampled, cases) if endpoint else None
        called = call(self._judges.functions, sampled, cases) if self._judges.functions else None
        judged = judge(self._reward_model, batch, cases, self._config, self._setup.compute, heard, called)
        return AnswerBatch(placed["prompt"], placed["prompt_length"], rollout.tokens, rollout.lengths), sampled, judged

    def record(self, host: dict[str, Any], number: int, sampled: Sampled, judged: Judged) -> dict[str, float]:
        """Writes the rollout to the ledger; returns its metrics. Called when the update is under way, which need not wait for it."""
        metrics, endpoint = self._ledger.record(number, self._cases(host), sampled, judged), self._judges.endpoint
        if self._watch:
            self._watch.hear(metrics)
        if endpoint and chief():
            metrics |= {f"judge/{name}": float(count) for name, count in endpoint.counts.items()}
        return metrics

    def _cases(self, host: dict[str, Any]) -> list[Case]:
        return [self._setup.cases[i].case for i in host["index"]]

    def tokens(self, host: dict[str, Any]) -> float:
        """Of the last step, for its speed: the instructions', once for sampling and once for the update, and the answers'."""
        return float(host["prompt_length"].sum() * 2) + self._ledger.tokens

    def begin(self, remembered: dict[str, Any] | None) -> None:
        """Opens what is written along the way, to go on with what `remember` returned; None: from the start."""
        before = remembered or {"ledger": [0, 0], "watch": None, "alarms": [], "judge": {}}
        self._ledger.begin(before["ledger"])
        self.alarms.begin(before["alarms"])
        if self._watch:
            self._watch.begin(before["watch"])
        if self._judges.endpoint:
            self._judges.endpoint.counts.update(before["judge"])

    def remember(self) -> dict[str, Any]:
        """What a checkpoint keeps of all this, as JSON; what is written along the way is on the disk then."""
        endpoint = self._judges.endpoint
        return {"ledger": self._ledger.remember(), "watch": self._watch.remember() if self._watch else None, "alarms": self.alarms.remember(),
                "judge": dict(endpoint.counts) if endpoint else {}}  # fmt: skip

    def look(self, policy: Params, done: int) -> float | None:
        """At the held-out cases after step `done`, where there are some: how good the policy is there."""
        return self._watch.look(policy, done) if self._watch else None

    def go_back(self) -> int | None:
        """The step to end with, where the policy outwits its reward model."""
        return self._watch.outwitted() if self._watch else None

    def close(self) -> None:
        self._ledger.close()
        if self._watch:
            self._watch.close()


def rollout_waves(config: OnPolicy, model: ModelConfig, mesh: jax.sharding.Mesh, prompt: int, answers: int, held: Any) -> int:
    """Into how many waves a batch's rollout is split on these devices, beside the arrays that the run holds; the same in every process."""
    memory = memory_of_a_device()
    free = None if memory is None else memory - bytes_here(held)
    cases = config.batch // parts_of(mesh, "batch")
    count = agree(waves(model, cases, prompt, answers, config.answer_tokens, config.dtype, mesh.shape["tp"], free))
    if count > 1:
        Console(stderr=True, quiet=not chief()).print(f"{answers} answers a case: sampled in {count} waves of {config.batch // count} cases, to fit the memory")
    return count


def roll_out(config: OnPolicy, setup: Setup, model: ModelConfig, policy: Params, host: dict[str, Any], number: int,
             in_waves: int) -> tuple[dict[str, Any], Rollout]:
    """The placed batch and its sampled answers, in so many waves."""
    placed = to_devices({name: host[name] for name in ("prompt", "prompt_length", "criteria", "criterion_lengths", "tiers", "case")})
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    return placed, sample(policy, model, placed["prompt"], placed["prompt_length"], key, placed["case"], answers=config.answers,
                          answer_tokens=config.answer_tokens, stop=stop_token(setup.tokenizer), temperature=config.temperature, compute=setup.compute,
                          waves=in_waves)  # fmt: skip
