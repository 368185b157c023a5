"""One typed schema for every recipe. A YAML file holds its keys, and each key is also a flag: `--optimizer.learning_rate 1e-4`.

Unknown keys are refused with the nearest known one; values are checked before anything is loaded or written.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promedical_jax.rubric import ScalarReward, Tier
from promedical_jax.rubric.advantage import TierWeights
from promedical_jax.rubric.labels import RaterWeights

Kind = Literal["explicit", "blind", "implicit"]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mesh(Settings):
    """Devices as slice x fsdp x tp; fsdp -1 takes all that the others leave."""

    slice: Positive = Field(1, description="groups of devices with a slow network between them; each holds all parameters and a share of the batch")

    fsdp: int = Field(-1, description="devices that share the batch and the parameters; -1: all that the others leave")
    tp: Positive = Field(1, description="devices that share heads, feed-forward and vocabulary")


class Optimizer(Settings):
    """AdamW with a linear warm-up, then a cosine to `final` of the peak."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps until the full learning rate")
    final: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of the learning rate left at the last step")
    weight_decay: Rate = 0.0
    b1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    b2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest global norm of the gradient")


class Shapes(Settings):
    """Static sizes in tokens; null measures the data and rounds up to a multiple of 8. A case that does not fit is an error, never cut."""

    prompt: Positive | None = None
    answer: Positive | None = None
    criterion: Positive | None = None
    path: Positive | None = Field(None, description="an instruction, its longest answer and its longest criterion together; null: any length")


class Long(Settings):
    """What becomes of cases that are longer than `shapes`: they are counted and listed, and never cut unless that is asked for."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="of the cases that may be too long; more are an error")
    cut: bool = Field(False, description="cut them, but no token where a score is read; else they are left out")

    @property
    def action(self) -> str:
        """What is done with them, in words."""
        return "cut" if self.cut else "left out"


class Calibration(Settings):
    """From scores to verdicts, fitted per tier to the labels of cases that are not trained on."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="of the training cases that are kept apart for it")
    method: Literal["platt", "isotonic", "temperature"] = Field("platt", description="from a score to a probability")
    recall: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="share of the violations to find; null: the verdict is what is more likely")
    abstain: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.0, description="width of the band of probability in which the verdict is to abstain")


MODEL = "HF folder (without safetensors: random weights), name on the hub, or checkpoint folder of a run or of `promedical import`"
REMAT = "full: the backward pass computes each layer again from its input; attention: but not attention; offload: both kept on the host; none: keeps all"


ROW = "tokens of a row that several small cases share, so that little is padding; null: one case a row, padded to the largest"


class Lora(Settings):
    """Low-rank adapters beside frozen weights (arXiv 2106.09685)."""

    rank: Annotated[int, Field(ge=0)] = Field(0, description="rank of the adapters; 0 trains all parameters")
    alpha: Annotated[float, Field(gt=0)] = Field(32.0, description="what adapters add is multiplied by alpha / rank")
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = Field(
        ("q", "k", "v", "o", "gate", "up", "down"), min_length=1, description="the matrices that are adapted"
    )
    start: Path | None = Field(None, description="folder of a PEFT adapter to start from, of this rank, alpha and targets")


class Keep(Settings):
    """Which of a run's checkpoints stay; the others are removed as new ones are complete."""

    last: Positive = Field(2, description="the newest ones; 2 or more leave one to fall back to when the newest is damaged")
    best: Annotated[int, Field(ge=0)] = Field(1, description="the best ones, where a watch says how good they are")
    every: Positive | None = Field(None, description="also each whose step is a multiple of this; null: none for that")


class Stage(Settings):
    """What every training stage needs."""

    out: Path = Field(description="run folder: checkpoints, metrics, the trained model")
    cases: Path = Field(description="training cases, .jsonl or .parquet")
    model: Path = Field(description=MODEL)
    tokenizer: Path | None = Field(None, description="folder of the tokenizer, where the model folder has none")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    steps: Positive = 100
    batch: Positive = Field(8, description="cases a step, over all devices")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what matrix products compute in; norms, RoPE, softmax and losses stay float32")
    weights: Literal["float32", "bfloat16"] = Field("float32", description="what trained parameters are kept in; bfloat16 with float32 masters")
    remat: Literal["none", "full", "attention", "offload"] = Field("full", description=REMAT)
    mesh: Mesh = Mesh()
    lora: Lora = Lora()
    optimizer: Optimizer = Optimizer()
    shapes: Shapes = Shapes()
    log_every: Positive = 10
    max_skips: Positive = Field(5, description="skipped steps in a row, for a loss, gradient or score that is NaN or infinite, at which the run stops")
    save_every: Positive = Field(100, description="steps between checkpoints; the last step is always saved")
    keep: Keep = Keep()
    doctor: bool = Field(True, description="before step 1, look over template, turns, positions, memory and disk, as `promedical doctor` does")


class SftConfig(Stage):
    """Supervised start: next-token cross-entropy on the answers of the cases."""

    row: Positive | None = Field(None, description=ROW)


class DpoConfig(Stage):
    """DPO: of two answers prefer the one that the raters prefer as a whole, by the lexicographic order of their verdicts."""

    row: Positive | None = Field(None, description=ROW)
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(0.1, description="how far the policy may move from its start: the less, the larger")
    loss: Literal["sigmoid", "ipo"] = Field("sigmoid", description="sigmoid: DPO; ipo: the squared loss of IPO, on log-probs a token")


KIND = "explicit: told the criterion; blind: a head a tier and no criterion; implicit: one score an answer, of which is preferred as a whole"
TIES = "none: ties teach pairs nothing; davidson, rao_kupper: a model of ties whose width is learned, a number a head"


class RmConfig(Stage):
    """The criterion-conditioned reward model: Bradley-Terry on answer pairs per criterion, and a binary loss on single verdicts that anchors the zero."""

    kind: Kind = Field("explicit", description=KIND)
    epochs: Positive | None = Field(None, description="times through the training cases, in place of `steps`")

    held_out: Path | None = Field(None, description="cases to report accuracy on, none of them trained on")
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the judged training cases to report accuracy on instead")
    row: Positive | None = Field(None, description=ROW)
    pair_weight: Rate = Field(1.0, description="weight of the pairwise loss")
    verdict_weight: Rate = Field(1.0, description="weight of the loss on single verdicts, without which scores have no zero")
    ties: Literal["none", "davidson", "rao_kupper"] = Field("none", description=TIES)
    foreign: Annotated[int, Field(ge=0)] = Field(0, description="criteria of other cases lent to each training case, as ones that no answer meets")
    raters: RaterWeights = RaterWeights()
    calibration: Calibration = Calibration()
    long: Long = Long()


ADVANTAGE = "by the order alone, by each tier normalised (weights: `tiers`), both keeping the veto; scalar: the published reward, normalised in the group"
AGGREGATE = "mean over all tokens, over answers of their means, or a sum over tokens by the longest answer sampled, which no answer's length changes"
IMPORTANCE = "clip the ratio to the trainer's own log-probs and weight tokens by these over the sampler's, up to this; null: the ratio is to the sampler's"


class Alarms(Settings):
    """What GRPO warns of when it begins, and says when it is over. null: never; of the gap, null is 1e-4 in float32 and 0.05 in bfloat16."""

    gap: Rate | None = Field(None, description="mean distance of a token's log-probs by sampler and trainer, above which the sampler's weights may be stale")
    kl: Rate | None = Field(1.0, description="KL a token to the model that training started from, in nats, above it")
    entropy: Rate | None = Field(None, description="entropy a token, in nats, below it")


class Endpoint(Settings):
    """A judge behind an OpenAI-compatible endpoint, which gives a verdict on each answer and criterion beside the reward model. Without a url there is none."""

    url: str | None = Field(None, description="as in http://localhost:8000/v1; answers and criteria are sent there")
    model: str | None = Field(None, description="the model's name there")
    replicas: tuple[str, ...] = Field((), description="further urls where the same model runs; each is asked in turn, and for one that fails another")
    key: str | None = Field(None, description="name of the environment variable that holds the key; null: none is sent")
    concurrency: Positive = Field(16, description="questions at a time")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(60.0, description="seconds for one reply")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="further tries for a question without a sound reply; then the judge abstains")
    max_tokens: Positive = Field(64, description="the longest reply")
    per_minute: Positive | None = Field(None, description="requests a minute at most, spread evenly; null: as many as `concurrency` allows")
    price_prompt: Rate = Field(0.0, description="what a million tokens of questions cost, in any money")
    price_reply: Rate = Field(0.0, description="what a million tokens of replies cost")
    budget: Annotated[float, Field(gt=0)] | None = Field(None, description="the most that may be spent, in that money and over all runs with this cache")
    budget_tokens: Positive | None = Field(None, description="the most tokens of questions and replies together, over all runs with this cache")
    cache: Path | None = Field(None, description="SQLite file that keeps sound replies and what was spent: no question is paid for twice")

    @model_validator(mode="after")
    def _a_url_needs_a_model(self) -> Self:
        if (self.url is None) != (self.model is None):
            raise ValueError("url and model belong together; give both, or neither")
        if self.budget is not None and not self.price_prompt + self.price_reply:
            raise ValueError("budget is given and no price; give price_prompt and price_reply, or leave the budget out")
        return self


class Watch(Settings):
    """Held-out cases that the policy answers before each checkpoint, for a judge whom the training reward does not know: who outwits the one is found out."""

    cases: Path | None = Field(None, description="held-out cases, .jsonl or .parquet; null: nothing is watched")
    judge: Path | None = Field(None, description="folder of another reward model that judges them; null: the truth, where it is known")
    answers: Positive = Field(4, description="answers sampled for each of the cases")
    patience: Positive | None = Field(
        3, description="looks without a new best, while the training reward is higher, after which the run ends with the best look's weights; null: never"
    )

    @model_validator(mode="after")
    def _a_judge_needs_cases(self) -> Self:
        if self.judge and not self.cases:
            raise ValueError("watch.judge is given, and watch.cases is not; give the held-out cases that it is to judge, or leave it out")
        return self


class VerdictUse(Settings):
    """How the reward model's word enters the scores: hard, as verdicts (0, 1 or abstained), or soft, as probabilities."""

    s1: Literal["hard", "soft"] = "hard"
    s2: Literal["hard", "soft"] = "hard"
    s3: Literal["hard", "soft"] = "hard"


FUNCTIONS = "reward functions with TRL's signature, each with `function` (package.module:name or file.py:name), `tier` or none, and `weight`"


class RewardFunction(Settings):
    """A function that rewards beside, or in the place of, a reward model (see train/functions.py)."""

    function: str = Field(pattern=r"^[^:]+:[^:]+$", description="package.module:name, or file.py:name")
    tier: Tier | None = Field(None, description="what it says, in [0, 1], is how far a criterion of this tier is met; null: it is added to the scalar reward")
    weight: float = Field(1.0, allow_inf_nan=False, description="in S1 beside the rubric's weights, which add up to 1; or what a scalar is multiplied by")

    @property
    def name(self) -> str:
        """As its figures are called."""
        return self.function.rpartition(":")[2]

    @model_validator(mode="after")
    def _weights_fit_the_tier(self) -> Self:
        if self.tier is Tier.PROFICIENCY and not 0 < self.weight <= 1:
            raise ValueError(f"{self.function} is of tier proficiency with a weight of {self.weight:g}; give it one in (0, 1]")
        if self.tier not in (None, Tier.PROFICIENCY) and self.weight != 1:
            raise ValueError(f"{self.function} is of tier {self.tier.value}, which is counted and not weighted; leave its weight out")
        return self


REWARD_MODEL = "folder of a trained reward model; of one by LoRA also its `adapter`, which then shares the frozen base of a policy by LoRA in memory"


class OnPolicy(Stage):
    """What the stages need that train on a policy's own answers, judged by a frozen reward model."""

    reward_model: Path | None = Field(None, description=REWARD_MODEL)
    functions: tuple[RewardFunction, ...] = Field((), description=FUNCTIONS)
    answers: Positive = Field(8, description="G, answers sampled for an instruction")
    answer_tokens: Positive = Field(256, description="R, the longest answer sampled")
    temperature: Annotated[float, Field(gt=0)] = 1.0
    kl: Rate = Field(0.04, description="weight of the KL to the model that training started from")
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    updates: Positive = Field(1, description="mu, optimizer steps on one rollout")
    verdicts: VerdictUse = VerdictUse()
    judge: Endpoint = Endpoint()
    alarms: Alarms = Alarms()
    watch: Watch = Watch()
    show: Annotated[int, Field(ge=0)] = Field(0, description="sampled answers to print, with their criteria, whenever figures are logged")
    reward: ScalarReward = ScalarReward()

    @model_validator(mode="after")
    def _recipe_hangs_together(self) -> Self:
        if self.reward_model is None and self.judge.url is None and not self.functions:
            raise ValueError("nobody judges the answers; give reward_model, judge.url or functions")
        tiers = {one.tier for one in self.functions} - {None}
        if self.reward_model is None and self.judge.url is None and tiers and Tier.PROFICIENCY not in tiers:
            raise ValueError("functions: none is of tier proficiency, so without reward_model no answer has an S1; give one that tier, or a reward_model")
        names = [one.name for one in self.functions]
        if self.watch.cases and self.watch.patience and not self.keep.best:
            raise ValueError("keep.best is 0, and watch.patience may end the run with the best checkpoint; set keep.best to 1, or watch.patience to null")
        if len(set(names)) < len(names):
            raise ValueError(f"functions: {', '.join(names)} are to have names of their own, for their figures are called so; rename one")
        return self


class GrpoConfig(OnPolicy):
    """GRPO against a frozen reward model, with an advantage that keeps the veto."""

    answers: Annotated[int, Field(ge=2)] = Field(8, description="G, answers sampled for an instruction")
    kl_unbiased: bool = Field(False, description="weight a token's KL by its ratio, which makes its gradient unbiased (TRL's default, not GRPO's paper)")
    ratio: Literal["token", "sequence"] = Field("token", description="sequence: the geometric mean over an answer's tokens (GSPO)")
    aggregate: Literal["tokens", "answers", "constant"] = Field("tokens", description=AGGREGATE)
    entropy: Rate = Field(0.0, description="weight of an entropy bonus")
    importance_cap: Annotated[float, Field(gt=0)] | None = Field(None, description=IMPORTANCE)
    drop_dead: bool = Field(False, description="groups without any advantage are not counted in the loss, nor is their KL")
    advantage: Literal["lexicographic", "tiered", "scalar"] = Field("lexicographic", description=ADVANTAGE)
    tiers: TierWeights = TierWeights()

    @model_validator(mode="after")
    def _an_order_needs_counts(self) -> Self:
        loose = [one.function for one in self.functions if one.tier is None]
        if self.advantage != "scalar" and loose:
            raise ValueError(f"advantage {self.advantage} goes by tiers, and {loose[0]} of functions has none; give it a tier, or set advantage to scalar")
        if self.advantage != "scalar" and self.verdicts.s3 == "soft":
            raise ValueError(f"advantage {self.advantage} needs to know who violated, and verdicts.s3 is soft; set verdicts.s3 to hard, or advantage to scalar")
        return self


class PpoConfig(OnPolicy):
    """PPO against a frozen reward model's scalar reward: a value head on the policy's states gives each token its advantage."""

    lam: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="lambda of the generalised advantage estimate")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="discount a token")
    value_weight: Rate = Field(0.1, description="weight of the value loss")
    value_clip: Annotated[float, Field(gt=0)] = Field(0.2, description="how far a value may move in one rollout's updates before its loss stops pulling")


class BenchConfig(Settings):
    """A trained policy or reward model on cases: S1, S2, S3 of sampled answers, or the accuracy of verdicts."""

    model: Path = Field(description="model folder of a policy or of a reward model")
    cases: Path = Field(description="cases that the model was not trained on, .jsonl or .parquet")
    zero_shot: bool = Field(False, description="take the model for a judge of criteria and ask it yes or no: the log-odds are its scores")
    paraphrases: Path | None = Field(None, description="the same cases with other words for the same criteria, to see how much a reward model minds")
    judge: Path | None = Field(None, description="reward model that judges a policy's answers; the clinic's cases are judged by the clinic's own checker")
    best_of: Path | None = Field(None, description="reward model that chooses one of each case's `answers` (best-of-G): the figures are of these alone")
    out: Path | None = Field(None, description="file for the figures, .json")
    report: Path | None = Field(None, description="page of a reward model's figures with reliability diagrams, .html")
    answers: Positive = Field(4, description="answers sampled for each case")
    answer_tokens: Positive = Field(256, description="the longest answer sampled")
    temperature: Rate = Field(1.0, description="0 takes the most likely token")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="sample among the k most likely tokens; 0: among all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="sample among the fewest most likely tokens with this mass together")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch: Positive = Field(16, description="cases at a time, over all devices")
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: Mesh = Mesh()
    shapes: Shapes = Shapes()
    long: Long = Long()


class ScoreConfig(Settings):
    """A reward model's verdicts on the answers of a file of cases, written back into the cases."""

    model: Path = Field(description="folder of a trained reward model, or its name on the hub")
    cases: Path = Field(description="cases with answers, .jsonl or .parquet")
    out: Path = Field(description="file of cases to write, .jsonl or .parquet; while it is made, its folder .part beside it holds what is done")
    ledger: Path | None = Field(None, description="ledger to write, .parquet or .jsonl; null: beside `out`, with the ending .ledger.parquet")
    force: bool = Field(False, description="replace what exists")
    batch: Positive = Field(16, description="cases at a time, over all devices")
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: Mesh = Mesh()
    shapes: Shapes = Shapes()
    long: Long = Long()


class QuickstartConfig(Settings):
    """The whole path on the simulated clinic: cases, supervised start, reward model, GRPO, report."""

    out: Path = Field(Path("runs/quickstart"), description="run folder")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    train_cases: Positive = 2000
    held_out_cases: Positive = 192
    sft_steps: Positive = 320
    rm_steps: Positive = 200
    grpo_steps: Positive = 45
