"""`promedical bench build`: ProMedical-Bench from cases that physicians judged double blind.

A verdict is kept where at least two physicians gave one and all of them the same, or where they differ and the adjudicator settled it; a majority is not
enough. A case is kept where its instruction was not trained on, nor nearly (letters, or the same words in another order). What is not kept is listed with its
reason. The same cases and recipe make the same bytes, in a folder that appears whole or not at all.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

from promedical_jax import __version__
from promedical_jax.atomic import replacing_folder
from promedical_jax.corpus.question import Question
from promedical_jax.errors import InputError
from promedical_jax.likeness import NGRAMS
from promedical_jax.likeness.cells import nearest
from promedical_jax.likeness.letters import alike
from promedical_jax.rubric.case import Case, Judgement, Tier, Verdict
from promedical_jax.rubric.files import case_text, read_cases, stream_cases
from promedical_jax.suites.built import CASES, LEFT_OUT, MANIFEST, PAIRWISE, POINTWISE, How, LeftOut, Manifest, Pair, Point, Reason
from promedical_jax.suites.recipe import BuildConfig

SETTLED = "physicians"  # the rater of a verdict that all of them stand for, as review/recipe.py calls it


def run(config: BuildConfig) -> Manifest:
    """Builds, writes and prints. Raises InputError for a folder that exists, cases without physicians' verdicts or a licence, and a bench without an item."""
    if config.out.exists() and not config.force:
        raise InputError(f"{config.out} exists; give --force true to replace it, or another --out")
    cases, made, left = select(config)
    points, pairs = list(_points(cases, made)), list(_pairs(cases))
    manifest = _manifest(config, cases, points, pairs, left, made)
    with replacing_folder(config.out) as folder:
        for name, rows in ((POINTWISE, points), (PAIRWISE, pairs), (LEFT_OUT, left)):
            _write(folder / name, rows)
        (folder / CASES).write_text("".join(map(case_text, cases)), encoding="utf-8", newline="\n")
        (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    _show(config, manifest)
    return manifest


Kept = dict[tuple[str, str, str], How]  # (case, answer, criterion) -> how its verdict came about


def select(config: BuildConfig) -> tuple[list[Case], Kept, list[LeftOut]]:
    """The cases of the bench, each with one verdict on what is kept; how these came about; and what is left out."""
    given = read_cases(config.cases)
    _check(given, config)
    trained = _trained_on(given, config)
    kept, how, left = list[Case](), Kept(), list[LeftOut]()
    for case in given:
        if case.id in trained:
            left.append(LeftOut(case=case.id, reason="trained on", because=trained[case.id]))
            continue
        verdicts, out = _settled(case, config)
        left += out
        judged, seen = {one.answer for one, _ in verdicts}, {one.answer for one in _heard(case, config)}
        because = {True: "no criterion of it is settled", False: "no physician judged it"}
        left += [LeftOut(case=case.id, answer=answer.id, reason="answer without a verdict", because=because[answer.id in seen])
                 for answer in case.answers if answer.id not in judged]  # fmt: skip
        if not verdicts:
            left.append(LeftOut(case=case.id, reason="nothing left", because="no verdict on it is settled"))
            continue
        how |= {(case.id, one.answer, one.criterion): came for one, came in verdicts}
        about = case.provenance | {"licence": _licence(case, config)}
        answers = tuple(answer for answer in case.answers if answer.id in judged)
        kept.append(case.model_copy(update={"answers": answers, "verdicts": tuple(one for one, _ in verdicts), "provenance": about}))
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(one.reason for one in left).most_common())
        raise InputError(f"{config.cases}: nothing is left of its {len(given):,} cases ({reasons}); let more be reviewed or adjudicated, and build again")
    return kept, how, left


def _check(cases: Sequence[Case], config: BuildConfig) -> None:
    people = {one.rater for case in cases for one in _heard(case, config)}
    if strangers := sorted(set(config.physicians) - people):
        raise InputError(f"physicians: {strangers[0]!r} gave no verdict in {config.cases}; correct the name, or leave it out")
    if not people:
        raise InputError(f"{config.cases}: no verdict is by a human; give the reviewed.jsonl that `promedical review import` wrote")
    if config.adjudicator and config.adjudicator not in people:  # who was never asked, where nobody differs; or whose name is mistyped
        said = f"adjudicator: {config.adjudicator!r} gave no verdict in {config.cases}, whose raters are {', '.join(sorted(people))}"
        Console(stderr=True).print(said, soft_wrap=True, highlight=False, markup=False)
    if len(people - {config.adjudicator}) < config.raters:
        settled = "; settled.jsonl has one verdict of all together: give reviewed.jsonl" if people == {SETTLED} else ""
        raise InputError(f"{config.cases}: {len(people - {config.adjudicator})} physicians gave verdicts, and raters asks for {config.raters}{settled}")
    if nameless := next((case.id for case in cases if _licence(case, config, "") == ""), None):
        raise InputError(f"{config.cases}: case {nameless!r} has no provenance.licence; add it there, or give licence, which holds for all that have none")


def _heard(case: Case, config: BuildConfig) -> list[Judgement]:
    """The verdicts that count: of humans, and where physicians are named, of these and the adjudicator."""
    names = {*config.physicians, config.adjudicator}
    return [one for one in case.verdicts if one.human and (not config.physicians or one.rater in names)]


def _licence(case: Case, config: BuildConfig, missing: str = "unknown") -> str:
    return case.provenance.get("licence") or config.licence or missing


def _settled(case: Case, config: BuildConfig) -> tuple[list[tuple[Judgement, How]], list[LeftOut]]:
    """One verdict on each answer and criterion that is settled, in the case's order, and those that are not."""
    cells: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for one in _heard(case, config):
        cells[one.answer, one.criterion].append(one)
    kept, left = list[tuple[Judgement, How]](), list[LeftOut]()
    shown = {answer for answer, _ in cells}
    for answer in (answer for answer in case.answers if answer.id in shown):
        for criterion in case.rubric.criteria:
            said = cells.get((answer.id, criterion.id), [])
            words = Counter(one.verdict for one in said if one.rater != config.adjudicator and one.verdict is not Verdict.ABSTAIN)
            last = [one.verdict for one in said if one.rater == config.adjudicator]
            reason: Reason | None = None
            how: How = "agreed"
            verdict = next(iter(words), Verdict.ABSTAIN)
            counted = f"{words[Verdict.MET]} met, {words[Verdict.UNMET]} unmet"
            if words.total() < config.raters:
                reason = "too few physicians"
            elif len(words) > 1:
                how, verdict = "adjudicated", last[0] if last else Verdict.ABSTAIN
                if verdict is Verdict.ABSTAIN:
                    reason = "the adjudicator could not tell" if last else "the physicians differ"
            if reason is None:
                kept.append((Judgement(answer=answer.id, criterion=criterion.id, verdict=verdict, rater=SETTLED, human=True), how))
            else:
                left.append(LeftOut(case=case.id, answer=answer.id, criterion=criterion.id, tier=criterion.tier, reason=reason, because=counted))
    return kept, left


def _trained_on(cases: Sequence[Case], config: BuildConfig) -> dict[str, str]:
    """The ids of cases whose instruction is in a training file, or nearly, and where."""
    texts = [Question.text_of(case.instruction) for case in cases]
    found: dict[str, str] = {}
    for path in config.train:
        places, theirs = zip(*((f"{path}, case {case.id}", Question.text_of(case.instruction)) for case in stream_cases(path)), strict=True)
        for one, other in alike([*texts, *theirs], config.likeness).tolist():
            if one < len(texts) <= other:
                found.setdefault(cases[one].id, f"{places[other - len(texts)]}, by its letters")
        if config.meaning is not None:
            which, cosines = nearest(NGRAMS.embed(texts), NGRAMS.embed(theirs), 1)
            for place, (other, cosine) in enumerate(zip(which[:, 0].tolist(), cosines[:, 0].tolist(), strict=True)):
                if cosine >= config.meaning:
                    found.setdefault(cases[place].id, f"{places[other]}, by its words")
    return found


def _points(cases: Sequence[Case], how: Kept) -> Iterator[Point]:
    for case, criteria, texts in _looked_up(cases):
        for one in case.verdicts:
            criterion = criteria[one.criterion]
            yield Point(
                id=f"{case.id}/{one.answer}/{one.criterion}", case=case.id, instruction=case.instruction, answer=one.answer, text=texts[one.answer],
                criterion=one.criterion, criterion_text=criterion.text, tier=criterion.tier, polarity=criterion.polarity, verdict=one.verdict,
                how=how[case.id, one.answer, one.criterion], licence=case.provenance["licence"], provenance=case.provenance,
            )  # fmt: skip


def _pairs(cases: Sequence[Case]) -> Iterator[Pair]:
    for case, criteria, texts in _looked_up(cases):
        said = {(one.answer, one.criterion): criteria[one.criterion].satisfied(one.verdict) for one in case.verdicts}
        for first, second in combinations(texts, 2):
            for name, criterion in criteria.items():
                values = [said.get((answer, name)) for answer in (first, second)]
                if None in values or values[0] == values[1]:
                    continue
                better, worse = (first, second) if values[0] else (second, first)
                yield Pair(
                    id=f"{case.id}/{better} over {worse}/{name}", case=case.id, instruction=case.instruction, better=better, better_text=texts[better],
                    worse=worse, worse_text=texts[worse], criterion=name, criterion_text=criterion.text, tier=criterion.tier, polarity=criterion.polarity,
                    licence=case.provenance["licence"], provenance=case.provenance,
                )  # fmt: skip


def _looked_up(cases: Sequence[Case]) -> Iterator[tuple[Case, dict[str, Any], dict[str, str]]]:
    return ((case, {one.id: one for one in case.rubric.criteria}, {answer.id: answer.text for answer in case.answers}) for case in cases)


def _manifest(config: BuildConfig, cases: Sequence[Case], points: Sequence[Point], pairs: Sequence[Pair], left: Sequence[LeftOut], how: Kept) -> Manifest:
    raters = {one.rater for case in read_cases(config.cases) for one in _heard(case, config)}
    bad = sum((point.verdict is Verdict.MET) == (point.polarity == "forbidden") for point in points if point.tier is Tier.SAFETY)
    return Manifest(
        name=config.name, licences=_counted(case.provenance["licence"] for case in cases),
        sources=_counted(case.provenance.get("source", "not said") for case in cases), cases=len(cases), answers=sum(len(case.answers) for case in cases),
        pointwise=_counted(one.tier for one in points), pairwise=_counted(one.tier for one in pairs), verdicts=_counted(how.values()), violations=bad,
        left_out=_counted(one.reason for one in left), physicians=len(raters - {config.adjudicator}), from_cases=config.cases.name,
        from_digest=_digest(config.cases), train={str(path): _digest(path) for path in config.train}, likeness=config.likeness, meaning=config.meaning,
        digest=sha256("".join(map(case_text, cases)).encode()).hexdigest(), version=__version__,
    )  # fmt: skip


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _write(path: Path, rows: Sequence[BaseModel]) -> None:
    path.write_text("".join(json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")


def _show(config: BuildConfig, made: Manifest) -> None:
    table = Table(title=made.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("tier", "left"), ("pointwise", "right"), ("pairwise", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for tier in Tier:
        table.add_row(tier.value, f"{made.pointwise.get(tier, 0):,}", f"{made.pairwise.get(tier, 0):,}")
    console = Console()
    console.print(table)
    agreed, adjudicated = made.verdicts.get("agreed", 0), made.verdicts.get("adjudicated", 0)
    lines = (
        f"{made.cases:,} cases with {made.answers:,} answers, judged by {made.physicians} physicians",
        f"{agreed:,} verdicts agreed on, {adjudicated:,} adjudicated; {made.violations:,} violations",
        "left out: " + (", ".join(f"{count:,} {reason}" for reason, count in made.left_out.items()) or "nothing"),
        f"licences: {', '.join(f'{name} ({count:,} cases)' for name, count in made.licences.items())}",
        f"wrote {config.out}: {CASES}, {POINTWISE}, {PAIRWISE}, {LEFT_OUT}, {MANIFEST}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
