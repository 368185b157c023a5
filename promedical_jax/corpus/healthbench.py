"""HealthBench (Arora et al. 2025, arXiv 2505.08775): conversations with physicians' criteria and points. A benchmark: never train on it.

Points above 0: a proficiency criterion weighted by its points, or an excellence criterion if its axis is communication_quality. Points below 0: a forbidden
criterion, of safety at -7 or lower, else of proficiency, weighted by the points' size. Proficiency weights are divided by their sum. The cut at -7 is ours:
points run from -10 to 10, and HealthBench itself has no veto.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Answer, Case, Criterion, Message, Polarity, Record, Rubric, Text, Tier
from promedical_jax.rubric.files import unique
from promedical_jax.rubric.lines import read_records

SOURCE, LICENCE = "HealthBench, github.com/openai/simple-evals", "MIT"
VETO_POINTS = -7
BONUS_AXIS = "communication_quality"


class _Item(Record):
    criterion: Text
    points: Annotated[int | float, Field(ge=-10, le=10)]
    tags: tuple[Text, ...]


class _Ideal(Record):
    ideal_completion: Text
    ideal_completions_group: Text | None = None
    ideal_completions_ref_completions: tuple[Text, ...] | None = None


class Example(Record):
    """A line of the file: the published fields, or the shorter form without example_tags, ideal_completions_data and canary."""

    prompt_id: Text
    prompt: Annotated[tuple[Message, ...], Field(min_length=1)]
    rubrics: Annotated[tuple[_Item, ...], Field(min_length=1)]
    example_tags: tuple[Text, ...] = ()
    ideal_completions_data: _Ideal | None = None
    canary: str | None = None


def import_healthbench(path: str | Path) -> list[Case]:
    """One case a conversation, in the order of the file; `path` is a JSONL file or a folder that holds one.

    Reads the published fields and the shorter form without example_tags, ideal_completions_data and canary. Criterion ids are c1, c2, ... in the file's order,
    dimension is the axis, category the theme; provenance keeps points and tags as JSON by criterion id. Physicians' ideal completions become answers.
    Raises InputError that names file, line and field for a row that cannot be used, among them one without a proficiency criterion.
    """
    return unique((place, _case(place, example)) for place, example in read_examples(Path(path)))


def read_examples(path: Path) -> Iterator[tuple[str, Example]]:
    """(place, record) of each line of a JSONL file, or of the one in a folder."""
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if len(files) != 1:
            raise InputError(f"{path} holds {len(files)} .jsonl files and one is needed; give the path of the file")
        path = files[0]
    return read_records(path, Example)


def _case(place: str, example: Example) -> Case:
    axes = [_axis(item, f"{place}, field rubrics[{n}]") for n, item in enumerate(example.rubrics)]
    tiers = [_tier(item.points, axis) for item, axis in zip(example.rubrics, axes, strict=True)]
    total = sum(abs(item.points) for item, tier in zip(example.rubrics, tiers, strict=True) if tier is Tier.PROFICIENCY)
    if not total:
        raise InputError(f"{place}, field rubrics: no criterion falls in the tier proficiency, which S1 needs; leave the line out")
    criteria = tuple(
        Criterion(
            id=f"c{number}",
            text=item.criterion,
            tier=tier,
            polarity=Polarity.REQUIRED if item.points > 0 else Polarity.FORBIDDEN,
            weight=abs(item.points) / total if tier is Tier.PROFICIENCY else None,
            dimension=axis,
        )
        for number, (item, tier, axis) in enumerate(zip(example.rubrics, tiers, axes, strict=True), start=1)
    )
    provenance = {
        "source": SOURCE,
        "licence": LICENCE,
        "benchmark": "never train on it",
        "points": json.dumps({criterion.id: item.points for criterion, item in zip(criteria, example.rubrics, strict=True)}),
        "tags": json.dumps({criterion.id: item.tags for criterion, item in zip(criteria, example.rubrics, strict=True)}),
    }
    if example.example_tags:
        provenance["example_tags"] = json.dumps(example.example_tags)
    if example.canary:
        provenance["canary"] = example.canary
    themes = [tag.removeprefix("theme:") for tag in example.example_tags if tag.startswith("theme:")]
    return Case(
        id=f"healthbench-{example.prompt_id}",
        instruction=example.prompt,
        answers=_answers(example.ideal_completions_data),
        rubric=Rubric(criteria=criteria),
        category=themes[0] if themes else None,
        provenance=provenance,
    )


def _axis(item: _Item, place: str) -> str:
    axes = [tag.removeprefix("axis:") for tag in item.tags if tag.startswith("axis:")]
    if len(axes) != 1 or not axes[0].strip():
        raise InputError(f"{place}.tags: holds {len(axes)} tags 'axis:NAME' and one is needed; correct the tags")
    if not item.points:
        raise InputError(f"{place}.points: is 0, which neither rewards nor punishes; give points or remove the criterion")
    return axes[0]


def _tier(points: float, axis: str) -> Tier:
    if points <= VETO_POINTS:
        return Tier.SAFETY
    return Tier.EXCELLENCE if points > 0 and axis == BONUS_AXIS else Tier.PROFICIENCY


def _answers(ideal: _Ideal | None) -> tuple[Answer, ...]:
    if ideal is None:
        return ()
    source = f"physicians, {ideal.ideal_completions_group}" if ideal.ideal_completions_group else "physicians"
    references = enumerate(ideal.ideal_completions_ref_completions or (), start=1)
    return (Answer(id="ideal", text=ideal.ideal_completion, source=source), *(Answer(id=f"reference_{n}", text=text, source="model") for n, text in references))
