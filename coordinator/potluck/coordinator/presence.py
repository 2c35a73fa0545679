"""Who was here last, and whether it is one program or two with the same key.

Kept in memory and written down in batches: ten thousand waiting clients must not cost ten thousand transactions.  What
is lost in a crash is at most the last few check-ins, so the numbers on disk are never higher than the true ones: a
clone may pass once more, an honest client is never refused.
"""

import threading
from dataclasses import dataclass, field
from typing import Final, final

from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import Member
from potluck.wire.refusals import Refusal

MAX_SEQNO: Final = 1 << 62
BOOT_BYTES: Final = 16
RECOUNT_S: Final = 1.0


@dataclass(slots=True)
class Seen:
    """The last check-in of one client."""

    boot_id: bytes
    seqno: int
    at_s: float
    saved: bool = False


@final
@dataclass(slots=True)
class Presence:
    """The last check-in of every client."""

    horizon_s: float
    """A client that was not here for so long is not waiting any more."""
    _seen: dict[str, Seen] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _counted: int = field(default=0, init=False)
    _counted_s: float = field(default=float("-inf"), init=False)

    def witness(self, member: Member, *, boot_id: bytes, seqno: int, now_s: float) -> None:
        """Note a check-in.

        seqno grows by one with each check-in over the life of the client's key, and boot_id is new each time the
        program starts.  A number that another boot has used already means that two programs share one key.

        Raises:
            Refusal: a number that went backwards: within one boot a replay, between two a copied identity.
        """
        if len(boot_id) != BOOT_BYTES or not 0 < seqno < MAX_SEQNO:
            raise Refusal(f"boot_id of {len(boot_id)} bytes, seqno {seqno}", code="bad_request", fix="update potluck")
        with self._lock:
            last = self._seen.get(member.client_id) or Seen(member.boot_id, member.seqno, member.seen_s, saved=True)
            if boot_id != last.boot_id and seqno <= last.seqno:
                raise Refusal(
                    f"check-in {seqno} comes after check-in {last.seqno} of another copy of this identity",
                    code="cloned_identity",
                    fix="this folder was copied: remove its identity here and join again with an invite",
                )
            if seqno < last.seqno:
                raise Refusal(
                    f"check-in {seqno} comes after check-in {last.seqno}: it was sent before",
                    code="bad_request",
                    fix="check in with a new number",
                )
            self._seen[member.client_id] = Seen(boot_id, seqno, now_s)

    def waiting(self, now_s: float) -> int:
        """Return how many clients were here within the horizon; at most a second old."""
        with self._lock:
            if not 0 <= now_s - self._counted_s < RECOUNT_S:
                self._counted = sum(now_s - seen.at_s < self.horizon_s for seen in self._seen.values())
                self._counted_s = now_s
            return self._counted

    def load(self, members: tuple[Member, ...]) -> None:
        """Take over what was written down before a restart."""
        with self._lock:
            for member in members:
                self._seen[member.client_id] = Seen(member.boot_id, member.seqno, member.seen_s, saved=True)

    def save(self, books: Books) -> None:
        """Write down what is not yet."""
        with self._lock:
            fresh = {client_id: seen for client_id, seen in self._seen.items() if not seen.saved}
            for seen in fresh.values():
                seen.saved = True
        for client_id, seen in fresh.items():
            books.members.saw(client_id, boot_id=seen.boot_id, seqno=seen.seqno, seen_s=seen.at_s)

    @property
    def unsaved(self) -> bool:
        """Whether there is anything to write down."""
        with self._lock:
            return any(not seen.saved for seen in self._seen.values())
