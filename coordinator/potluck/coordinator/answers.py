"""What a check-in comes to, and the answers that stay true for a while.

Ten thousand clients that wait mostly get the answer that they got before.  It stays true until somebody writes into
the database, so until then it is given again without a look into it.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from potluck.coordinator import rounds
from potluck.coordinator.store.records import Member, Version
from potluck.wire.v1.work_pb2 import CheckInRequest


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What a check-in comes to, before anything is written."""

    member: Member
    assignment: rounds.Assignment
    cancel: Mapping[bytes, str]
    """Leases that the client lists and should drop, with why."""
    stale: tuple[bytes, ...]
    """Open leases that no update can count for any more."""
    holds: int
    """Open leases."""
    now: rounds.Situation
    version: Version
    due: bool
    """Something happened to the round that is not written down yet, such as its deadline."""
    ledger_lines: int = 0
    """Lines of the client's own ledger, as it told last."""

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to write."""
        return not self.due and not self.stale and isinstance(self.assignment, rounds.Decline | rounds.Finished)

    def lasting(self, terms: rounds.Terms) -> bool:
        """Whether it stays true until something is written: in a synchronous round, leases also run out by time."""
        if not self.quiet:
            return False
        full = rounds.Decline(rounds.Why.ROUND_FULL)
        return not terms.synchronous or (not self.holds and self.assignment != full)


@final
@dataclass(slots=True)
class Recent:
    """Lasting answers since the last writing transaction."""

    _changes: int = field(default=-1, init=False)
    _answers: dict[str, tuple[bytes, Answer]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def find(self, changes: int, client_id: str, request: CheckInRequest) -> Answer | None:
        """Return the answer to the same request since the writing transaction number *changes*, if there was one."""
        with self._lock:
            asked, answer = self._answers.get(client_id, (b"", None)) if changes == self._changes else (b"", None)
        return answer if answer is not None and asked == _asked(request) else None

    def keep(self, changes: int, request: CheckInRequest, answer: Answer) -> None:
        """Keep an *answer* that was found after the writing transaction number *changes*."""
        with self._lock:
            if changes != self._changes:
                self._answers.clear()
                self._changes = changes
            self._answers[answer.member.client_id] = (_asked(request), answer)


def _asked(request: CheckInRequest) -> bytes:
    """Return all of *request* that an answer depends on: not who it is the how-manieth time."""
    same = CheckInRequest()
    same.CopyFrom(request)
    same.ClearField("seqno")
    same.ClearField("boot_id")
    return same.SerializeToString(deterministic=True)
