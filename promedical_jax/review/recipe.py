"""The recipe of a review: which cases, by whom, of what, and where Label Studio runs."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promedical_jax.config import Positive, Settings

SIZE = 500  # cases a round, as the paper's
SETTLED = "physicians"  # who says what all of them together have settled
NAME = re.compile(r"\w(?:[\w .'-]*\w)?")  # of a physician: it is the name of files too

What = Literal["answers", "rubrics"]
Share = Annotated[float, Field(gt=0, lt=1)]


class StudioRecipe(Settings):
    """A Label Studio that runs: projects are made there, and read back. Without a url, files are written and read."""

    url: str | None = Field(None, description="such as http://localhost:8080")
    key: str | None = Field(None, description="name of the environment variable that holds an access token (Account & Settings), and never the token itself")

    @model_validator(mode="after")
    def _url_and_key_go_together(self) -> Self:
        if (self.url is None) != (self.key is None):
            raise ValueError("studio needs url and key, or neither: key is the name of the environment variable that holds the access token")
        return self


class ReviewConfig(Settings):
    """Physicians judge two answers to each question, or correct rubrics. Nobody sees who answered, or what anyone else said."""

    cases: Path = Field(description="file of cases: .jsonl or .parquet")
    out: Path = Field(description="folder for the key to what is what, and for what comes back")
    what: What = Field(description="answers: verdicts on two answers to each question, and which is better; rubrics: are they right")
    physicians: tuple[str, ...] = Field(min_length=1, description="their names, a project each")
    adjudicator: str | None = Field(None, description="a physician not among these, to whom `review adjudicate` sends what they differ on")
    size: Positive = Field(SIZE, description="cases to review; of rubrics, a round")
    per_case: Positive | None = Field(None, description="physicians who see a case; null: all for answers, one for rubrics")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of which cases and which two answers; who sees them in which order no seed tells")
    pool: Path | None = Field(None, description="file of reviewed rubrics, .jsonl, which grows by each round; needed for rubrics")
    threshold: Share = Field(0.93, description="share of rubrics that must be right before review may stop")
    error: Share = Field(0.05, description="probability, over all rounds, that it stops although fewer are right")
    missed: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of wrong rubrics that physicians let pass, as planted faults show it")
    exports: Path | None = Field(None, description="folder of Label Studio's JSON exports, to read back without a url")
    studio: StudioRecipe = StudioRecipe()

    @model_validator(mode="after")
    def _people_are_told_apart(self) -> Self:
        people = [*self.physicians, *([self.adjudicator] if self.adjudicator is not None else [])]
        for name, count in Counter(name.casefold() for name in people).items():
            if count > 1:
                raise ValueError(f"physicians and adjudicator: {count} are called {name!r} (capitals aside); each must be somebody else")
        for name in people:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} of physicians and adjudicator is no name of a file; use letters, digits, spaces, dots, apostrophes and dashes")
            if name.casefold() == SETTLED:
                raise ValueError(f"{name!r} of physicians and adjudicator is what all of them together are called; give another name")
        if self.per_case is not None and self.per_case > len(self.physicians):
            raise ValueError(f"per_case is {self.per_case}, and there are {len(self.physicians)} physicians; lower it or name more")
        if self.what == "rubrics" and (self.pool is None or self.pool.suffix != ".jsonl"):
            raise ValueError("a review of rubrics needs pool, a file of reviewed rubrics that ends in .jsonl; it need not be there yet")
        return self

    @property
    def readers(self) -> int:
        """How many physicians see a case."""
        return self.per_case or (len(self.physicians) if self.what == "answers" else 1)
