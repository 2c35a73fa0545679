"""How many calls of each kind may be under way: check-ins are turned away first, submits last."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple, final

from potluck.wire.refusals import Refusal

THREADS: Final = 32
"""Calls that are worked on at the same time."""


class Kind(Enum):
    """A kind of call."""

    CHECK_IN = "check-ins"
    MEMBERSHIP = "enrolments"
    READ = "downloads"
    WRITE = "uploads"
    SUBMIT = "submits"


class Share(NamedTuple):
    """What a kind of call may use."""

    at_once: int
    patience_s: float
    """How long a call may wait for its turn."""
    retry_in_s: float
    """When to come back after being turned away."""


SHARES: Final[Mapping[Kind, Share]] = MappingProxyType(
    {
        Kind.CHECK_IN: Share(8, 0.0, 10.0),
        Kind.MEMBERSHIP: Share(4, 1.0, 5.0),
        Kind.READ: Share(8, 1.0, 5.0),
        Kind.WRITE: Share(8, 1.0, 5.0),
        Kind.SUBMIT: Share(4, 20.0, 2.0),
    }
)
"""They add up to THREADS, so no kind can take the threads of another."""


def _semaphores() -> dict[Kind, threading.Semaphore]:
    return {kind: threading.Semaphore(share.at_once) for kind, share in SHARES.items()}


@final
@dataclass(frozen=True, slots=True)
class Admission:
    """Lets calls in, or turns them away at once with a time to come back."""

    _free: dict[Kind, threading.Semaphore] = field(default_factory=_semaphores)

    @contextmanager
    def admitted(self, kind: Kind) -> Iterator[None]:
        """Hold one of the places of *kind*.

        Raises:
            Refusal: all are taken.
        """
        share = SHARES[kind]
        if not self._free[kind].acquire(timeout=share.patience_s):
            raise Refusal(
                f"{share.at_once} {kind.value} are under way, as many as the coordinator does at once",
                code="overloaded",
                fix="it is tried again by itself",
                retry_in_s=share.retry_in_s,
            )
        try:
            yield
        finally:
            self._free[kind].release()
