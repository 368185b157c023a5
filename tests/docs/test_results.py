"""docs/results says what its own files say: the claims in its table, and README's table of policies, are those of the JSON beside it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
FILES = sorted(RESULTS.glob("T*.json"))
NAMES = {"implicit": "implicit reward + GRPO", "scalar": "GRPO `scalar` (published)", "lexicographic": "GRPO `lexicographic`", "tiered": "GRPO `tiered`",
         "tiered, safety first": "GRPO `tiered`, `--tiers.s3 4`"}  # fmt: skip


def cells(text: str, first: str) -> list[str]:
    """Those of the one line of a Markdown table whose first cells are `first`."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def share(found: list[float]) -> str:
    """A share with its interval, which ends where shares do."""
    mean, low, high = found[0], max(0.0, found[1]), min(1.0, found[2])
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_claim_stands_in_the_table_as_it_was_found(file: Path) -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    table = json.loads(file.read_text(encoding="utf-8"))
    assert table["made"]["seeds"] == 5 and table["made"]["budget"] == "full" and all(check["passed"] for check in table["checks"])
    for claim in table["claims"]:
        more = f" (more than {100 * claim['more_than']:+.1f})" if claim["more_than"] else ""
        mean, low, high = claim["difference"]
        told = cells(text, f"{table['table']} | {claim['says']}{more}")
        assert told[2] == f"{100 * mean:+.1f} ({100 * low:.1f} to {100 * high:.1f})" and told[4] == claim["verdict"]


def test_the_counts_are_right() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    verdicts = [claim["verdict"] for file in FILES for claim in json.loads(file.read_text(encoding="utf-8"))["claims"]]
    counts = [len(verdicts), *(verdicts.count(one) for one in ("reproduced", "contradicted", "undecided"))]
    found = re.search(r"Of (\d+) claims (\d+) are reproduced, (\d+) contradicted, (\d+) undecided", text)
    assert found and list(map(int, found.groups())) == counts
    readme = re.search(r"of (\d+) claims (\d+) reproduced, one contradicted", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme and [*map(int, readme.groups()), 1] == counts[:3]


def test_the_readmes_policies_are_those_of_the_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads((RESULTS / "T4.json").read_text(encoding="utf-8"))["rows"]
    for row in rows:
        told, figures = cells(text, NAMES.get(row["name"], row["name"])), row["figures"]
        assert told[1:5] == [share(figures[name]) for name in ("overall", "safe", "s1", "s2")], row["name"]
        assert told[5] == (share(figures["win"]) if "win" in figures else "–") and told[6] == share(figures["over_refusal"])
        assert told[7] == f"{figures['length'][0]:.0f}"
