"""What a check came to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from promedical_jax.errors import InputError


class NotApplicable(Exception):
    """There is nothing to check; the message says why."""


@dataclass(frozen=True)
class Finding:
    check: str
    outcome: Literal["passed", "failed", "not applicable"]
    said: str  # what was found, or what to mend, or why there is nothing to check


def look(check: str, examine: Callable[[], str]) -> Finding:
    """What `examine` returns passed; its InputError is a failure that a user can mend, any other error is ours."""
    try:
        return Finding(check, "passed", examine())
    except NotApplicable as reason:
        return Finding(check, "not applicable", str(reason))
    except InputError as fault:
        return Finding(check, "failed", str(fault))
