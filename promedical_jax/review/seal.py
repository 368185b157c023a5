"""Who sees what in which order, under which code: the key to a review, which stays with the researcher and never reaches Label Studio.

What Label Studio holds is codes, texts, and "A" and "B". The key is a file, sealed.json; its sha256, the seal, goes out with each project and each task, so
that a key which was changed after the export opens nothing. Codes and orders are drawn from the system's randomness: no seed of a recipe tells them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from random import Random
from secrets import SystemRandom, token_hex

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.review.recipe import ReviewConfig, What
from promedical_jax.rubric.case import Case, Record, Text, Tier
from promedical_jax.rubric.lines import parse

FILE = "sealed.json"
# Safety first: a veto is judged with a fresh eye, before the rest of an answer has made it liked; and it is what decides between answers first, too.
ORDER = (Tier.SAFETY, Tier.PROFICIENCY, Tier.EXCELLENCE)
SHOWN: dict[What, set[str]] = {"answers": {"instruction", "answers", "rubric"}, "rubrics": {"instruction", "rubric"}}


class Task(Record):
    """One case as one physician sees it. `answers`: the ids of A and B, none in a review of rubrics. `criteria`: ids, in the order of the page.

    `overall`: whether it is asked which answer is better. `digest`: of what of the case is shown.
    """

    code: Text
    physician: Text
    case: Text
    answers: tuple[Text, ...]
    criteria: tuple[Text, ...]
    overall: bool
    digest: Text


class Key(Record):
    """`review` tells this export from others. Each physician's tasks stand in the order in which they are shown."""

    review: Text
    what: What
    tasks: tuple[Task, ...]

    @property
    def physicians(self) -> list[str]:
        return list(dict.fromkeys(task.physician for task in self.tasks))

    def of(self, physician: str) -> list[Task]:
        return [task for task in self.tasks if task.physician == physician]

    @property
    def by_code(self) -> dict[str, Task]:
        return {task.code: task for task in self.tasks}


@dataclass(frozen=True)
class Sealed:
    """A key as it lies in a folder, with its seal."""

    folder: Path
    key: Key
    seal: str


@dataclass(frozen=True)
class Asked:
    """What is asked of one physician about one case; for `answers` and `criteria` see Task."""

    physician: str
    case: Case
    answers: tuple[str, ...]
    criteria: tuple[str, ...]
    overall: bool


def seal(asked: Sequence[Asked], what: What) -> Key:
    """Codes, and for each physician an order of the tasks and of each task's answers, all of the system's randomness."""
    chance, mixed = SystemRandom(), list(asked)
    chance.shuffle(mixed)
    tasks = []
    for one in sorted(mixed, key=lambda one: one.physician):
        answers = tuple(chance.sample(one.answers, len(one.answers)))
        tasks.append(Task(code=token_hex(8), physician=one.physician, case=one.case.id, answers=answers, criteria=one.criteria, overall=one.overall,
                          digest=digest(one.case, what)))  # fmt: skip
    return Key(review=token_hex(8), what=what, tasks=tuple(tasks))


def deal(cases: Sequence[Case], config: ReviewConfig) -> list[Asked]:
    """Each case to as many physicians as see one, who get equally many; for answers, one pair of the case's, the same for each physician."""
    load, asked = Counter[str](), list[Asked]()
    for case in cases:
        chance = Random(f"{config.seed} {case.id}")
        pair = chance.choice(list(combinations([answer.id for answer in case.answers], 2))) if config.what == "answers" else ()
        rank = {name: (load[name], chance.random()) for name in config.physicians}
        for name in sorted(config.physicians, key=rank.__getitem__)[: config.readers]:
            load[name] += 1
            asked.append(Asked(name, case, pair, in_order(case), config.what == "answers"))
    return asked


def in_order(case: Case) -> tuple[str, ...]:
    """The ids of the criteria as a page shows them: by tier, safety first."""
    return tuple(criterion.id for tier in ORDER for criterion in case.rubric.criteria if criterion.tier is tier)


def digest(case: Case, what: What) -> str:
    """Of all that physicians are shown of a case."""
    return sha256(case.model_dump_json(include=SHOWN[what]).encode()).hexdigest()


def write_key(folder: Path, key: Key) -> Sealed:
    with replacing(folder / FILE) as file:
        file.write_text(_text(key), encoding="utf-8", newline="\n")
    return Sealed(folder, key, seal_of(key))


def seal_of(key: Key) -> str:
    return sha256(_text(key).encode()).hexdigest()


def read_key(folder: Path) -> Sealed:
    """Raises InputError where there is none, or a file that is none."""
    path = folder / FILE
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `promedical review export` first, and keep what it writes") from None
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); put the file of the export back") from None
    return Sealed(folder, parse(Key, text, str(path)), sha256(content).hexdigest())


def check_cases(sealed: Sealed, cases: Sequence[Case], file: Path) -> dict[str, Case]:
    """The cases of a key by their ids. Raises InputError where one is missing, or is not what the physicians were shown."""
    by_id = {case.id: case for case in cases}
    for task in sealed.key.tasks:
        if task.case not in by_id:
            raise InputError(f"{file} has no case {task.case!r}, which {sealed.folder / FILE} has; give the file that was exported as cases")
        if digest(by_id[task.case], sealed.key.what) != task.digest:
            raise InputError(f"{file}: case {task.case!r} is not as the physicians saw it; give the file that was exported as cases, or export anew")
    return by_id


def broken(sealed: Sealed, place: str, seal: str) -> str:
    """What to say where a place has another seal than the key."""
    file, seals = sealed.folder / FILE, f"was sealed with {seal[:12]}..., and the file has {sealed.seal[:12]}..."
    return f"{file} was changed after the export: {place} {seals}; put the file of the export back"


def _text(key: Key) -> str:
    return key.model_dump_json(indent=1) + "\n"
