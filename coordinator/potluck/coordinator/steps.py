"""The steps by which updates become a version, as a seam: tests end the process at each of them."""

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias


class Step(Enum):
    """A kill before, inside or after any of these loses nothing and counts nothing twice."""

    REVEAL = "whose updates a secure sum holds is written down, before anybody is asked to sign it"
    SPOOL = "an update is on disk, and its row and its receipt are in one transaction"
    PREPARE = "the round's exact inputs are fixed, in that same transaction"
    COMPUTE = "the inputs are combined"
    BLOB = "the new version's blobs are on disk"
    JUDGE = "the new version is measured on the probe, where there is one"
    COMMIT = "one transaction: model pointer, round, updates, log"


class When(Enum):
    """Where in a step."""

    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"


OnStep: TypeAlias = Callable[[Step, When], None]


def no_step(step: Step, when: When) -> None:
    """Let every step pass."""
