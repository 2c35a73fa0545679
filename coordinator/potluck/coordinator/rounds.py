"""What a round decides: who gets work, which updates count, when it closes.  Pure: no clock, no store, no network."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeAlias

from potluck.coordinator.phases import OPEN, Event, Phase
from potluck.wire.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Terms:
    """What the recipe says about rounds."""

    synchronous: bool
    cohort: int
    """Updates that close a round."""
    minimum: int
    """Synchronous: updates that must be in at the deadline."""
    seats: int
    """Synchronous: leases that a round hands out, ⌈cohort · over_selection⌉."""
    deadline_s: float
    """Synchronous: seconds from a round's first lease to its end."""
    max_staleness: int
    """Versions that an update's start may lie behind and still count; 0 where the rule needs one start for all."""
    last_version: int
    """The run is done at this version; 0 means no end."""
    summed: bool = False
    """Whether updates are summed unseen.  One that found no sum may wait for a later round of the same version."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Read the terms out of *recipe*."""
        a, summed = recipe.aggregation, recipe.privacy.secure_aggregation
        return cls(
            synchronous=a.mode == "synchronous",
            cohort=a.cohort,
            minimum=min(a.minimum, a.cohort),
            # 10 · 1.1 is a hair above 11 in binary; the rounding keeps it from costing a twelfth lease.
            seats=math.ceil(round(a.cohort * a.over_selection, 9)),
            deadline_s=a.deadline_s,
            max_staleness=a.max_staleness if recipe.any_start and not summed else 0,
            last_version=recipe.run.versions,
            summed=summed,
        )

    @property
    def opening(self) -> Phase:
        """The phase in which a new round starts."""
        return Phase.SELECTING if self.synchronous else Phase.FILLING


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the run stands, in one consistent look."""

    version: int
    """The shared adapter's version now."""
    combining: int
    """Rounds whose inputs are fixed and whose new version is not there yet."""
    round: int | None
    """The round that takes updates; none when the run is done, or while a synchronous one is combined."""
    phase: Phase | None
    """That round's phase."""
    received: int
    """Updates that the round has."""
    leased: int
    """Leases of that round that are alive and have no update yet."""
    age_s: float | None
    """Seconds since that round's first lease; none while it has none."""
    paused: bool

    def done(self, terms: Terms) -> bool:
        """Whether the run has reached its last version."""
        return 0 < terms.last_version <= self.version


@dataclass(frozen=True, slots=True)
class Hold:
    """A lease as the coordinator knows it, at this moment."""

    lease_id: bytes
    round: int
    version: int
    alive: bool
    """Its time has not run out."""
    open: bool
    """Nothing has ended it: no update, no refusal, no abort, no cancellation."""


class Why(Enum):
    """Why a client gets no work."""

    ROUND_FULL = "this round has enough clients; the next one starts when it closes"
    CONTRIBUTED = "your update of this version is in; the others are not done yet"
    PENDING = "the operator has to approve you first"
    PAUSED = "the operator has paused the run"
    COMBINING = "the updates are being combined right now"
    UNWANTED = "you asked for none"
    RESTING = "you took part as often, or as lately, as this run's privacy allows"
    OVER = "this run has had all the rounds that its privacy allows; its operator has to end it, or begin another"
    BUSY = "you hold a lease already; finish that first"


@dataclass(frozen=True, slots=True)
class Grant:
    """A new lease, for the open round."""


@dataclass(frozen=True, slots=True)
class Redeliver:
    """The lease that the client should hold and does not know of, once more and with its full time."""

    lease_id: bytes


@dataclass(frozen=True, slots=True)
class Decline:
    """No work now."""

    why: Why


@dataclass(frozen=True, slots=True)
class Finished:
    """No work ever again: the run has reached its last version."""


Assignment: TypeAlias = Grant | Redeliver | Decline | Finished


@dataclass(frozen=True, slots=True)
class Asker:
    """The client that checks in."""

    pending: bool
    """It is enrolled and not approved."""
    contributed: bool
    """An update of it counts, or will: one that started from the present version, or one in the open round."""
    wants_work: bool
    holds: tuple[Hold, ...]
    """All its leases that nothing has ended."""
    listed: frozenset[bytes]
    """Ids of the leases that it says it holds."""
    resting: Why | None = None
    """Why it may not take part in the open round: the guarantee counts so many participations, so far apart."""


def useful(terms: Terms, now: Situation, hold: Hold) -> bool:
    """Whether an update for *hold* could still count, were it here now.

    Asynchronous: its start lies at most max_staleness behind the version it would be added to, however late the lease
    is.  Synchronous: its round still takes updates and, where its time ran out, nobody else took the seat; where
    updates are summed, any round of its version does.
    """
    if now.done(terms) or now.round is None or now.phase not in OPEN:
        return False
    if staleness(now, hold.version) > terms.max_staleness:
        return False
    if terms.summed or not terms.synchronous:
        return True
    return hold.round == now.round and (hold.alive or now.leased + now.received < terms.seats)


def assignment(terms: Terms, now: Situation, asker: Asker) -> Assignment:  # noqa: C901, PLR0911 - a list of cases
    """Return what the check-in of *asker* gets."""
    if asker.pending:
        return Decline(Why.PENDING)
    if now.done(terms):
        return Finished()
    held = [hold for hold in asker.holds if hold.open and useful(terms, now, hold)]
    if any(hold.lease_id in asker.listed for hold in held):
        return Decline(Why.BUSY)
    if not asker.wants_work:
        return Decline(Why.UNWANTED)
    if now.paused:
        return Decline(Why.PAUSED)
    # The client lost the reply that carried it, or its own disk: the same lease again, if it starts where a new one
    # would.  An older one is let go, since the newest adapter is what one wants to train from.
    ghosts = [hold for hold in held if hold.version == now.version]
    if ghosts:
        return Redeliver(ghosts[0].lease_id)
    if asker.contributed:
        return Decline(Why.CONTRIBUTED)
    if asker.resting:
        return Decline(asker.resting)
    if now.combining or now.round is None:
        return Decline(Why.COMBINING)
    if terms.synchronous and now.leased + now.received >= terms.seats:
        return Decline(Why.ROUND_FULL)
    return Grant()


class Offer(Enum):
    """Whether an update is still wanted."""

    WANTED = "yes"
    WANTED_LATE = "yes, at the staleness weight given"
    NOT_WANTED = "no longer; it is credited all the same"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an update would count as, were it submitted now."""

    offer: Offer
    staleness: int
    """Versions by which its start lies behind the master it would be added to."""
    human: str

    @property
    def weight(self) -> float:
        """(1 + τ)^(−½), and 0 for what does not count."""
        return 0.0 if self.offer is Offer.NOT_WANTED else staleness_weight(self.staleness)


def staleness(now: Situation, version: int) -> int:
    """Return by how many versions a start of *version* will lie behind when the open round is combined.

    Rounds that are being combined come first, and each of them makes a version.
    """
    return max(0, now.version + now.combining - version)


def staleness_weight(tau: int) -> float:
    """Return (1 + τ)^(−½).

    Source: Nguyen et al. 2022, §5, arXiv:2106.06639.
    """
    return 1.0 / math.sqrt(1.0 + tau)


def verdict(  # noqa: PLR0911 - a list of cases
    terms: Terms, now: Situation, hold: Hold, *, contributed: bool, resting: Why | None = None
) -> Verdict:
    """Return what an update for *hold* counts as.

    *contributed*: another update of this client counts already, from the same version or in the same round.
    *resting*: why it may not take part in the open round.
    """
    tau = staleness(now, hold.version)
    if now.done(terms):
        return Verdict(Offer.NOT_WANTED, tau, f"the run has reached its last version, {now.version}")
    if contributed:
        return Verdict(Offer.NOT_WANTED, tau, "another update of yours counts, from the same version or in this round")
    if resting:
        return Verdict(Offer.NOT_WANTED, tau, resting.value)
    if terms.synchronous and not terms.summed and hold.round != now.round:
        return Verdict(Offer.NOT_WANTED, tau, f"round {hold.round} closed without it")
    if now.round is None or now.phase not in OPEN:
        return Verdict(Offer.NOT_WANTED, tau, "no round takes updates any more")
    if tau > terms.max_staleness:
        human = f"its start lies {tau} versions behind, and at most {terms.max_staleness} count"
        return Verdict(Offer.NOT_WANTED, tau, human)
    if tau:
        return Verdict(Offer.WANTED_LATE, tau, f"its start lies {tau} versions behind, so it counts {weight_text(tau)}")
    return Verdict(Offer.WANTED, tau, "its start is the present version")


def weight_text(tau: int) -> str:
    """Return the staleness weight for people."""
    return f"{staleness_weight(tau):.2f} times"


def event(terms: Terms, now: Situation) -> Event | None:
    """Return what has happened to the open round, if anything."""
    if now.phase not in OPEN:
        return None
    if now.received >= terms.cohort:
        return Event.GOAL
    if not terms.synchronous:
        return None
    if now.age_s is not None and now.age_s >= terms.deadline_s:
        return Event.ENOUGH if now.received >= terms.minimum else Event.TOO_FEW
    if now.phase is Phase.SELECTING and now.leased + now.received >= terms.seats:
        return Event.SELECTED
    return None
