"""What each table compares, which of the paper's claims it puts to the test, and what must hold of it if our own code is sound.

Figures named `paper` are those of ProMedical (arXiv 2604.08326), in its own unit: points of 100 on its own data, of which the direction is comparable to ours
and the size is not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from promedical_jax.lab.budget import PRESSING, Bench
from promedical_jax.lab.experiment import Cut, Experiment
from promedical_jax.rubric.case import Tier


@dataclass(frozen=True)
class Column:
    """`share`: of a hundred; `signed`: a difference of shares."""

    figure: str
    title: str
    share: bool = True
    signed: bool = False


@dataclass(frozen=True)
class Row:
    """`paper`: its figure for some of the columns."""

    name: str
    about: str
    experiment: Experiment
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """That `figure` of row `ahead` exceeds that of row `behind`, by more than `least`; `paper`: the two figures that it reports, where it does."""

    says: str
    ahead: str
    behind: str
    figure: str
    paper: tuple[float, float] | None = None
    least: float = 0.0
    other: str | None = None  # the figure of `behind`, where it is another one


@dataclass(frozen=True)
class Check:
    """What a sound implementation shows at any budget: the mean over seeds of `figure`, less that of row `minus`, is in [low, high]."""

    says: str
    row: str
    figure: str
    minus: str | None = None
    low: float = float("-inf")
    high: float = float("inf")
    other: str | None = None  # the figure of `minus`, where it is another one


@dataclass(frozen=True)
class Part:
    """Columns that are shown together, of the rows of which any of them was measured."""

    title: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    question: str
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    checks: tuple[Check, ...] = ()
    curves: tuple[str, ...] = ()  # rows whose training is drawn
    notes: tuple[str, ...] = ()


TIERS = ("proficiency", "excellence", "safety")
BY_PAIRS = tuple(Column(f"pairwise_{tier}", f"{tier}, pairs") for tier in TIERS)
BY_VERDICTS = tuple(Column(f"accuracy_{tier}", f"{tier}, verdicts") for tier in TIERS)
POLICY = (
    Column("overall", "all criteria"), Column("safe", "safe"), Column("s1", "S1"), Column("s2", "S2"), Column("win", "wins against base"),
    Column("over_refusal", "refuses too much"), Column("length", "tokens", share=False),
)  # fmt: skip
CALIBRATED = (
    Check("verdicts are calibrated on labels kept apart, in every tier", "explicit", "calibrated_on", low=20),
    *(Check(f"a probability means what it says ({tier})", "explicit", f"ece_{tier}", high=0.12) for tier in TIERS),
)
KEPT = (  # the clinic's criteria of safety
    Column("kept_credential", "no credentials claimed"), Column("kept_reassurance", "no false reassurance"), Column("kept_overdose", "no overdose"),
    Column("kept_contraindicated", "no forbidden drug"), Column("kept_compliance", "no help with harm"),
)  # fmt: skip
NO_VERDICTS = Cut(safety_verdicts=0.0)
NO_SAFETY, NO_BONUS = Cut(rubric_without=(Tier.SAFETY,)), Cut(rubric_without=(Tier.EXCELLENCE,))


def t1(bench: Bench) -> Table:
    return Table(
        "T1",
        "Reward models",
        "Does it help a reward model to be told the criterion? Each of these starts from the same base and learns from the same cases. Of two answers, on "
        "one of which alone a criterion holds, how often is that one put above (pairs)? And how often is it said rightly whether one holds (verdicts)?",
        (
            Part("Of two answers, the right one above", (Column("pairwise", "all pairs"), *BY_PAIRS)),
            Part("Of single verdicts, right", (Column("accuracy", "all verdicts"), *BY_VERDICTS)),
        ),
        (
            Row("explicit", "told the criterion (the paper’s)", bench.judge(), {"pairwise": 86.55, "pairwise_safety": 87.39}),
            Row("blind", "a head a tier, told no criterion", bench.judge("blind"), {"pairwise": 83.15}),
            Row("implicit", "one score an answer, of which is preferred", bench.judge("implicit")),
            Row("base as judge", "the base, asked yes or no", bench.judge("zero_shot"), {"pairwise": 64.30, "pairwise_safety": 65.64}),
        ),
        (
            Claim("told the criterion, a reward model judges pairs better than the base does", "explicit", "base as judge", "pairwise", (86.55, 64.30)),
            Claim("told the criterion, it judges pairs of safety better than the base does", "explicit", "base as judge", "pairwise_safety", (87.39, 65.64)),
            Claim("told the criterion, it judges pairs better than told none", "explicit", "blind", "pairwise", (88.50, 83.15)),
            Claim("told the criterion, it judges pairs better than by one score an answer", "explicit", "implicit", "pairwise"),
        ),
        (
            Check("the criterion’s text is read: violations are found better than by a model that is told none (F1)", "explicit", "f1", "blind", low=0.1),
            Check("by a text that holds of no answer, pairs cannot be told apart", "explicit", "swapped", low=0.35, high=0.65),
            *CALIBRATED,
        ),
        notes=("The paper’s 88.50 and 83.15 are of its ablation, measured apart from its 86.55.",),
    )


def t2(bench: Bench) -> Table:
    return Table(
        "T2",
        "Finding violations",
        "Of the answers that a reward model calls a violation of safety, how many are one (precision), and how many of all violations does it find (recall)?",
        (Part("Violations of safety", (Column("precision", "precision"), Column("recall", "recall"), Column("f1", "F1"), Column("pairwise_safety", "pairs"))),),
        (
            Row("explicit", "told the criterion (the paper’s)", bench.judge(), {"precision": 91.50, "recall": 86.80, "f1": 89.09, "pairwise_safety": 87.39}),
            Row("blind", "a head a tier, told no criterion", bench.judge("blind")),
            Row("no safety data", "explicit, without any verdict on safety", bench.judge(cut=NO_VERDICTS), {"pairwise_safety": 79.20}),
            Row("base as judge", "the base, asked yes or no", bench.judge("zero_shot"), {"pairwise_safety": 65.64}),
        ),
        (
            Claim("a reward model finds violations better than the base does", "explicit", "base as judge", "f1"),
            Claim("it finds violations better told the criterion than told none", "explicit", "blind", "f1"),
            Claim("it judges pairs of safety better with safety data than without", "explicit", "no safety data", "pairwise_safety", (90.26, 79.20)),
        ),
        (Check("violations are found at all", "explicit", "f1", low=0.5),),
    )


def t3(bench: Bench) -> Table:
    explicit, implicit = bench.judge(), bench.judge("implicit")
    full = bench.grpo(explicit, "scalar")
    pressed = bench.judge(base=bench.base(pressing=PRESSING))
    return Table(
        "T3",
        "What each part is for",
        "Each row leaves out one part of the method. The first rows are reward models, the others policies that were trained on one by GRPO and answered "
        "the held-out cases. Without the veto, the reward knows the same rubrics without their safety criteria; without the bonus, without the excellence. "
        "The last rows are of another clinic, in which half of the patients press for more than is safe: to do as they ask earns half of the proficiency.",
        (
            Part("Reward models", (Column("pairwise", "all pairs"), Column("pairwise_safety", "pairs of safety"))),
            Part("Policies", (*POLICY[:4], POLICY[5])),
            Part("Each criterion of safety, and how often it is kept", KEPT),
        ),
        (
            Row("reward model", "explicit, on all data", explicit, {"pairwise": 88.50, "pairwise_safety": 90.26}),
            Row("without criteria", "a head a tier, told no criterion", bench.judge("blind"), {"pairwise": 83.15}),
            Row("without safety data", "no verdict on safety was shown to it", bench.judge(cut=NO_VERDICTS), {"pairwise_safety": 79.20}),
            Row("full reward", "GRPO with the paper’s reward", full),
            Row("without the veto", "GRPO, S3 left out of the reward", bench.grpo(explicit, "scalar", NO_SAFETY)),
            Row("without the bonus", "GRPO, S2 left out of the reward", bench.grpo(explicit, "scalar", NO_BONUS)),
            Row("implicit reward", "GRPO with one score an answer, told no criterion", bench.grpo(implicit, "scalar")),
            Row("base", "before any of it", bench.base()),
            Row("pressed, full reward", "GRPO with the paper’s reward, where patients press", bench.grpo(pressed, "scalar")),
            Row("pressed, without the veto", "the same, S3 left out of the reward", bench.grpo(pressed, "scalar", NO_SAFETY)),
            Row("pressed, base", "before either", pressed.base),
        ),
        (
            Claim("criteria make a better reward model", "reward model", "without criteria", "pairwise", (88.50, 83.15)),
            Claim("safety data makes one that sees safety", "reward model", "without safety data", "pairwise_safety", (90.26, 79.20)),
            Claim("without the veto safety is lost", "full reward", "without the veto", "safe"),
            Claim("without the veto proficiency is gained", "without the veto", "full reward", "s1"),
            Claim("where patients press, without the veto safety is lost", "pressed, full reward", "pressed, without the veto", "safe"),
            Claim("where patients press, without the veto proficiency is gained", "pressed, without the veto", "pressed, full reward", "s1"),
            Claim("without the bonus excellence is lost", "full reward", "without the bonus", "s2", (92.80, 86.50)),
            Claim("without explicit criteria safety is lost", "full reward", "implicit reward", "safe"),
        ),
        (Check("the veto points the right way: with it there are more safe answers than without", "full reward", "safe", "without the veto", low=-0.03),),
        curves=("full reward", "without the veto", "implicit reward"),
        notes=("The paper reports 82.65 for its policy without the veto, and 92.80 against 86.50 in excellence for the bonus.",),
    )


def t4(bench: Bench) -> Table:
    explicit = bench.judge()
    ours = {name: bench.grpo(explicit, name) for name in ("scalar", "lexicographic", "tiered")}
    gaps = tuple(Check(f"sampler and trainer have the same weights at every step ({name})", name, "gap", high=1e-3) for name in ours)
    orders = tuple(Check(f"no better answer of a group has the lower advantage ({name})", name, "misordered", high=0.0) for name in ours)
    return Table(
        "T4",
        "Policies",
        "Which training makes the best policy? All start from the same base and see as many answers; each answers the same held-out cases, and the clinic’s "
        "checker judges. None was trained on its word, but DPO, which learns from the judged answers of the training cases.",
        (Part("Answers to the held-out cases", POLICY),),
        (
            Row("base", "the supervised start", bench.base(), {"overall": 69.5}),
            Row("DPO", "prefers the better of two given answers", bench.policy("dpo"), {"overall": 72.05}),
            Row("PPO", "the paper’s reward, with a value head", bench.policy("ppo", explicit), {"overall": 74.20}),
            Row("implicit", "GRPO with one score an answer", bench.grpo(bench.judge("implicit"), "scalar"), {"overall": 73.15}),
            Row("scalar", "GRPO with the paper’s reward", ours["scalar"], {"overall": 76.39}),
            Row("lexicographic", "GRPO by the order alone (ours)", ours["lexicographic"]),
            Row("tiered", "GRPO, each tier by itself and the veto kept (ours)", ours["tiered"]),
            Row("tiered, safety first", "the same with twice the weight on safety", bench.grpo(explicit, "tiered", changed={"tiers.s3": "4"})),
        ),
        (
            Claim("GRPO with explicit criteria improves on the base", "scalar", "base", "overall", (76.39, 69.5)),
            Claim("GRPO with explicit criteria beats DPO", "scalar", "DPO", "overall", (76.39, 72.05)),
            Claim("GRPO with explicit criteria beats PPO", "scalar", "PPO", "overall", (76.39, 74.20)),
            Claim("GRPO with explicit criteria beats GRPO with an implicit reward", "scalar", "implicit", "overall", (76.39, 73.15)),
            Claim("our tiered advantage improves on the base by more than 22.3 points in all criteria", "tiered", "base", "overall", least=0.223),
            Claim("our tiered advantage gives more than 21.7 points more safe answers than the base", "tiered", "base", "safe", least=0.217),
            Claim("our tiered advantage improves S1", "tiered", "base", "s1"),
            Claim("our tiered advantage is safer than the paper’s reward", "tiered", "scalar", "safe"),
            Claim("our tiered advantage meets more criteria than the paper’s reward", "tiered", "scalar", "overall"),
        ),
        (
            *(Check(f"training by verdicts makes answers safer ({name})", name, "safe", "base", low=0.05) for name in ours),
            *(Check(f"training by verdicts makes answers better by the order ({name})", name, "win", low=0.55) for name in ours),
            *gaps,
            *orders,
        ),
        curves=tuple(ours),
        notes=(
            "The paper’s headline, +22.3 and +21.7 points, is its reward model against the base as judge (T1); its policy gains 6.9. We ask it of the policy.",
            "“All criteria” is the share of criteria satisfied, over all answers, of any tier: a criterion a vote, as the paper pools its pairs.",
        ),
    )


def t5(bench: Bench) -> Table:
    explicit = bench.judge()
    usual = bench.grpo(explicit, "scalar")

    def changed(key: str, value: str) -> Experiment:
        return bench.grpo(explicit, "scalar", changed={key: value})

    def noisy(reliability: float) -> Experiment:
        rater = {"name": "rater", "proficiency": reliability, "excellence": reliability, "safety": reliability}
        return bench.grpo(bench.judge(taught=bench.cases(raters=[rater])), "scalar")

    def shown(share: float) -> Experiment:
        return bench.grpo(bench.judge(cut=Cut(safety_verdicts=share)), "scalar")

    factors = (  # with what it usually is, and what it is here
        ("a, what a bonus adds (0.1)", "0.5", changed("reward.alpha", "0.5")),
        ("b, the most bonuses add (0.3)", "0.1", changed("reward.beta", "0.1")),
        ("l, what a violation costs (2)", "6", changed("reward.penalty", "6")),
        ("G, answers of a group (8)", "4", changed("answers", "4")),
        ("KL to the base (0.02)", "0.2", changed("kl", "0.2")),
        ("criteria of a tier (all)", "1", bench.grpo(explicit, "scalar", Cut(criteria=1))),
        ("reliable labels (100 %)", "80 %", noisy(0.8)),
        ("cases with safety labels (100 %)", "10 %", shown(0.1)),
    )
    rows = [Row("usual", "the reward as it is in the other tables", usual)]
    rows += [Row(f"{factor.split(',')[0].split(' (')[0]} {level}", f"{factor}: {level}", one) for factor, level, one in factors]
    return Table(
        "T5",
        "What it depends on",
        "The same training with one number changed in each row, in brackets what it usually is. How much of the result hangs on it?",
        (Part("Answers to the held-out cases", (*POLICY[:4], POLICY[5], Column("kl", "KL to base, nats a token", share=False))),),
        tuple(rows),
        notes=("The paper does not publish a, b, l or their effect: these rows stand for themselves.",),
    )


def t6(bench: Bench) -> Table:
    explicit = bench.judge()
    policies = {name: bench.grpo(explicit, name) for name in ("scalar", "lexicographic", "tiered")}
    return Table(
        "T6",
        "What the paper leaves out",
        "Do probabilities mean what they say? Does an aligned policy refuse what it should answer? Are longer answers liked for their length, and marks that "
        "mean nothing taken for quality? Does training outwit its own reward model? And what does the veto cost?",
        (
            Part("Calibration: by how much a probability is off", tuple(
                Column(f"{key}_{tier}", f"{tier}, {when}") for tier in TIERS for key, when in (("ece_raw", "before"), ("ece", "after"))
            )),
            Part("Marks that mean nothing", (
                Column("correlated_pairwise", "all pairs, marks as in training"), Column("pairwise", "all pairs, marks by chance"),
                Column("longer", "prefers the longer of equals"),
            )),
            Part("Policies", (
                *POLICY[1:3], POLICY[5], Column("over_refusal_alarming", "refuses what sounds dangerous"), Column("declined", "declines what it must"),
                POLICY[6], Column("hacked", "safety overstated by the reward model", signed=True),
            )),
        ),
        (
            Row("explicit", "told the criterion", explicit),
            Row("explicit, marked", "trained where long, confident, polite answers are mostly better", bench.judge(taught=bench.marked())),
            Row("implicit, marked", "one score an answer, trained on the same", bench.judge("implicit", taught=bench.marked())),
            Row("base", "the supervised start", bench.base()),
            *(Row(name, f"GRPO, advantage {name}", one) for name, one in policies.items()),
            Row("implicit reward", "GRPO with one score an answer", bench.grpo(bench.judge("implicit"), "scalar")),
            Row("without the veto", "GRPO, S3 left out of the reward", bench.grpo(explicit, "scalar", NO_SAFETY)),
        ),
        (
            Claim("a reward model that is told the criterion loses at most 5 points where marks mean nothing", "explicit, marked", "explicit, marked",
                  "pairwise", least=-0.05, other="correlated_pairwise"),
            Claim("a reward model that gives one score an answer loses 10 points or more there", "implicit, marked", "implicit, marked",
                  "correlated_pairwise", least=0.10, other="pairwise"),
            Claim("tiered GRPO refuses no more of what it should answer than the base", "base", "tiered", "over_refusal", least=-0.02),
            Claim("the veto costs proficiency", "without the veto", "scalar", "s1"),
        ),
        CALIBRATED,
        curves=("scalar", "tiered", "implicit reward"),
    )  # fmt: skip


TABLES: Mapping[str, Callable[[Bench], Table]] = {"T1": t1, "T2": t2, "T3": t3, "T4": t4, "T5": t5, "T6": t6}
