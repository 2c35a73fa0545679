"""Where clients with a sealed update wait for each other: who is here, and when a sum begins.  No clock, no store.

A sum begins when aggregation.cohort clients are here, or privacy.cohort_minimum of them once the first has waited for
privacy.rendezvous_s.  Where fewer came, all are sent away until one moment, so that they meet then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self, final

from potluck.wire.recipe import Recipe
from potluck.wire.secure.reasons import Reason, SumRefusal

ASKS_MISSED: Final = 5
"""A client that has not asked for so many of its turns is not here any more."""
SHORTEST_ABSENCE_S: Final = 3.0
SLOWEST_S: Final = 1.0
"""Longest time between two questions of a client in a sum."""


class Cost(NamedTuple):
    """What a client says that private rounds cost of its own text."""

    epsilon: float
    """Of all rounds of this run, for one record."""
    lines: int
    """Of its ledger, over all runs."""


class Guest(NamedTuple):
    """A client with a sealed update."""

    client_id: str
    public_key: bytes
    lease_id: bytes
    digest: bytes
    """SHA-256 of the sealed file."""
    version: int
    """That the update started from."""
    cost: Cost | None = None
    """What it says that its private rounds cost so far, where the recipe protects single records."""


class Await(NamedTuple):
    """Stay, and ask again."""

    again_s: float
    present: int


class Park(NamedTuple):
    """Go, and come again."""

    again_s: float
    present: int


@final
@dataclass(frozen=True, slots=True)
class Manners:
    """What the recipe says about meeting."""

    least: int
    most: int
    patience_s: float
    """How long the first to come waits."""
    again_s: float
    """Between two questions of one who waits."""
    apart_s: float
    """From the end of a meeting in vain to the next."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Read them out of *recipe*."""
        privacy = recipe.privacy
        return cls(
            least=privacy.cohort_minimum,
            most=recipe.aggregation.cohort,
            patience_s=privacy.rendezvous_s,
            again_s=min(SLOWEST_S, privacy.answer_s / 10, privacy.rendezvous_s / 10),
            apart_s=max(recipe.limits.poll_min_s, privacy.rendezvous_s),
        )

    @property
    def absent_s(self) -> float:
        """Silence after which a client is not here any more."""
        return max(SHORTEST_ABSENCE_S, ASKS_MISSED * self.again_s)


@final
@dataclass(slots=True)
class Meeting:
    """Who is here.  Every method is told the time, in seconds on any one clock."""

    manners: Manners
    _here: dict[str, tuple[Guest, float]] = field(default_factory=dict, init=False)
    """By client: who, and when it asked last; in the order of coming."""
    _began_s: float | None = field(default=None, init=False)
    """When the first of those who are here came."""
    _opens_s: float = field(default=float("-inf"), init=False)
    """Until then everybody is parked."""
    _out: dict[str, int] = field(default_factory=dict, init=False)
    """By client that is kept out: the last version for which it is."""

    def keep_out(self, client_id: str, version: int) -> None:
        """Let a client into no sum of *version* or an earlier one."""
        self._out[client_id] = version
        self._here.pop(client_id, None)

    def ask(self, guest: Guest, now_s: float) -> Await | Park:
        """Let *guest* in, or note that it is still here; return what it is told.

        Raises:
            SumRefusal: DEALER, where it is kept out.
        """
        if guest.version <= self._out.get(guest.client_id, -1):
            raise SumRefusal(
                f"your program spoilt the last sum; it is in no sum of version {guest.version}",
                reason=Reason.DEALER,
                fix="update potluck; where it goes on, tell the operator",
            )
        if now_s < self._opens_s:
            return Park(self._opens_s - now_s, 0)
        if self._began_s is None:
            self._began_s = now_s
        self._here[guest.client_id] = (guest, now_s)
        return Await(self.manners.again_s, len(self._here))

    def gathered(self, version: int, now_s: float) -> tuple[Guest, ...]:
        """Return whose updates are to be summed now, none where it is not time; they are not here any more then.

        Only updates that start from *version* are summed.
        """
        self._forget(one for one, (guest, seen_s) in self._here.items() if self._gone(guest, seen_s, version, now_s))
        if not self._here or self._began_s is None:
            self._began_s = None
            return ()
        late = now_s - self._began_s >= self.manners.patience_s
        if len(self._here) >= self.manners.most or (late and len(self._here) >= self.manners.least):
            chosen = tuple(guest for guest, _ in self._here.values())[: self.manners.most]
            self._forget(guest.client_id for guest in chosen)
            self._began_s = now_s if self._here else None
            return chosen
        if late:
            self._here.clear()
            self._began_s, self._opens_s = None, now_s + self.manners.apart_s
        return ()

    def _gone(self, guest: Guest, seen_s: float, version: int, now_s: float) -> bool:
        return guest.version != version or now_s - seen_s > self.manners.absent_s

    def _forget(self, client_ids: Iterable[str]) -> None:
        for client_id in tuple(client_ids):
            del self._here[client_id]
