"""A data stream of nothing, for runs whose steps need no data."""

from typing import Any


class Stream:
    """Counts what was taken, as a run's batches do."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> dict[str, Any]:
        self.taken += 1
        return {}

    def get_state(self) -> dict[str, int]:
        return {"taken": self.taken}

    def set_state(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]
