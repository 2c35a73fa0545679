"""The loop over simulated time: one event after another, each decided as a coordinator decides it."""

import heapq
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.errors import PotluckError
from potluck.coordinator import rounds
from potluck.coordinator.pacing import poll_window
from potluck.coordinator.phases import Phase, after
from potluck.simulations.running.closing import close
from potluck.simulations.running.presence import Spell, dead, spell
from potluck.simulations.running.standing import Happening, Kind, Lease, Tally
from potluck.simulations.running.table import Table
from potluck.simulations.running.teaching import take, teach
from potluck.simulations.worlds.base import NEVER
from potluck.simulations.worlds.chance import uniform

LONGEST_S: Final = 366 * 86_400.0
"""Simulated seconds without the end of a round after which a run is given up."""


class Stalled(PotluckError):
    """A run in which no round ends any more."""


def open_doors(table: Table) -> None:
    """Let everybody come for the first time: when they are first online."""
    for person in range(len(table.world.people)):
        _plan(table, table.world.availability.next_online_s(person, 0.0), Kind.CHECK_IN, person)


def play_round(table: Table) -> None:
    """Go on until a round has ended, with or without a version.

    Raises:
        Stalled: none does.
        PotluckError: training fails.
    """
    at, begun_s, rows = table.standing, table.standing.at_s, len(table.rows.rounds)
    while len(table.rows.rounds) == rows:
        if not at.events or at.events[0].at_s - begun_s > LONGEST_S:
            words = "nobody comes any more" if not at.events else f"no end in {LONGEST_S / 86_400:g} simulated days"
            raise Stalled(
                f"round {at.round}: {words}; {len(at.waiting)} of {table.terms.cohort} updates are in",
                fix="lower aggregation.cohort or minimum, or choose a scenario with more presence",
            )
        at.at_s = at.events[0].at_s
        _advance(table)  # its time may have run out
        if len(table.rows.rounds) == rows:
            event = heapq.heappop(at.events)
            ACTIONS[event.kind](table, event.subject)
            _advance(table)


def _check_in(table: Table, person: int) -> None:
    """Give *person* work, or tell it when to come again."""
    at, client = table.standing, table.standing.clients[person]
    there_s = table.world.availability.next_online_s(person, at.at_s)
    if there_s > at.at_s:
        _plan(table, there_s, Kind.CHECK_IN, person)
        return
    now = table.look()
    contributed = client.counted_version == now.version or client.counted_round == now.round
    asker = rounds.Asker(pending=False, contributed=contributed, wants_work=True, holds=(), listed=frozenset())
    if isinstance(rounds.assignment(table.terms, now, asker), rounds.Grant):
        _grant(table, person)
        return
    _see_that_it_goes_on(table)
    limits = table.plan.recipe.limits
    window = poll_window(
        len(at.clients) - len(at.leases),
        check_ins_per_s=limits.check_ins_per_s,
        poll_min_s=limits.poll_min_s,
        poll_max_s=limits.poll_max_s,
    )
    client.asked += 1
    drawn = uniform(table.world.seed, "poll", person, client.asked)
    _plan(table, at.at_s + window.min_s + drawn * (window.max_s - window.min_s), Kind.CHECK_IN, person)


def _see_that_it_goes_on(table: Table) -> None:
    """Refuse to wait for what cannot come: nobody works, no deadline is near, and nobody may have work."""
    at = table.standing
    timed = table.terms.synchronous and at.tally.began_s is not None
    if at.leases or timed or any(client.counted_version != at.version for client in at.clients):
        return
    failed = [row.reason for row in table.rows.updates if row.round == at.round and row.outcome == "dropped"]
    reasons = [reason for reason in failed if reason]
    words = f"; training failed for {len(reasons)}: {reasons[-1]}" if reasons else ""
    raise Stalled(
        f"round {at.round} has {len(at.waiting)} of {table.terms.cohort} updates, and all {len(at.clients)} clients "
        f"have sent theirs of version {at.version}, or given up{words}",
        fix="lower aggregation.cohort, simulate more clients, or lower availability.dropout in the scenario",
    )


def _grant(table: Table, person: int) -> None:
    """Give a lease; its client fetches the adapter and trains."""
    at, client, who = table.standing, table.standing.clients[person], table.world.people[person]
    if at.tally.began_s is None:
        at.tally.began_s = at.at_s
        if table.terms.synchronous:
            _plan(table, _after(at.at_s, table.terms.deadline_s), Kind.DEADLINE, at.round)
    at.given += 1
    download_s = who.device.download_s(at.published.size)
    gives_up = table.world.availability.drops(person, at.version)
    lease = Lease(at.given, person, at.round, at.version, at.at_s, download_s, gives_up)
    at.leases[lease.number] = lease
    at.tally.leases += 1
    at.tally.bytes_down += at.published.size
    client.leases += 1
    if gives_up:  # half-way, as far as one knows
        _work(table, lease, download_s + (client.train_s or 0.0) / 2, Kind.GONE)
        return
    if person in at.ahead:
        take(table, lease)
    else:
        at.pending.append(lease.number)
    if client.train_s is None:
        _work(table, lease, download_s, Kind.FETCHED)
    else:
        lease.train_s = client.train_s
        _work(table, lease, download_s + client.train_s, Kind.TRAINED)


def _fetched(table: Table, number: int) -> None:
    """Find out how long the first training of a client takes: by training."""
    lease = table.standing.leases[number]
    teach(table, lease)
    if lease.failed:
        _over(table, lease, "dropped")
        return
    lease.train_s = table.standing.clients[lease.person].train_s or 0.0
    _work(table, lease, lease.train_s, Kind.TRAINED)


def _trained(table: Table, number: int) -> None:
    """Offer an update, and send it where it is still wanted."""
    lease = table.standing.leases[number]
    if table.verdict(lease).offer is rounds.Offer.NOT_WANTED:
        _over(table, lease, "late")
        return
    teach(table, lease)
    if lease.failed:
        _over(table, lease, "dropped")
        return
    size = lease.sealed.size if lease.sealed else 0
    lease.upload_s = table.person(lease).device.upload_s(size)
    _work(table, lease, lease.upload_s, Kind.ARRIVED)


def _arrived(table: Table, number: int) -> None:
    """Take an update into the open round, or tell that it comes too late."""
    at = table.standing
    lease = at.leases[number]
    client, sealed = at.clients[lease.person], lease.sealed
    at.tally.bytes_up += sealed.size if sealed else 0
    if table.verdict(lease).offer is rounds.Offer.NOT_WANTED:
        _over(table, lease, "late")
        return
    del at.leases[number]
    at.waiting.append(lease)
    client.counted_version, client.counted_round = lease.version, at.round
    client.counted += 1
    if sealed is not None:
        client.left = sealed.left
    _plan(table, at.at_s, Kind.CHECK_IN, lease.person)


def _gone(table: Table, number: int) -> None:
    """End the lease of somebody who gave up, or who will not be back."""
    lease = table.standing.leases[number]
    _over(table, lease, "dropped" if lease.gives_up else "expired")


def _over(table: Table, lease: Lease, outcome: str) -> None:
    """End a lease that came to nothing; its client comes again."""
    at = table.standing
    del at.leases[lease.number]
    table.end(lease, outcome, reason=lease.failed)
    if outcome == "dropped":  # whoever gave up does not come back for the same version
        at.clients[lease.person].counted_version = max(at.clients[lease.person].counted_version, lease.version)
    if outcome != "expired":
        _plan(table, at.at_s, Kind.CHECK_IN, lease.person)


def _work(table: Table, lease: Lease, work_s: float, then: Kind) -> None:
    """Let the client of *lease* work for so long, in the time that it is there."""
    lease_s = table.plan.recipe.limits.lease_s
    done: Spell = spell(table.world.availability, lease.person, table.standing.at_s, work_s)
    lease.dead += dead(done.away, lease_s)
    if done.done_s == NEVER:
        gone_s = done.away[-1][0] if done.away else table.standing.at_s
        _plan(table, gone_s + lease_s, Kind.GONE, lease.number)
        return
    _plan(table, done.done_s, then, lease.number)


def _advance(table: Table) -> None:
    """Move the open round on by what has happened to it."""
    at = table.standing
    while (happened := rounds.event(table.terms, table.look())) is not None:
        phase = after(Phase[at.phase], happened)
        if phase in {Phase.AGGREGATING, Phase.ABANDONED}:
            close(table, happened if phase is Phase.ABANDONED else None)
            at.round += 1
            at.tally, at.phase = Tally(), table.terms.opening.name
            at.ahead.clear()
        else:
            at.phase = phase.name


def _plan(table: Table, at_s: float, kind: Kind, subject: int) -> None:
    """Write an event into the calendar, unless it never comes."""
    if at_s < NEVER:
        at = table.standing
        at.sequence += 1
        heapq.heappush(at.events, Happening(at_s, kind, at.sequence, subject))


def _after(at_s: float, seconds: float) -> float:
    """Return the first moment that is at least *seconds* after *at_s*, rounding included."""
    moment = at_s + seconds
    while moment - at_s < seconds:
        moment = math.nextafter(moment, NEVER)
    return moment


ACTIONS: Final[Mapping[Kind, Callable[[Table, int], None]]] = MappingProxyType(
    {
        Kind.DEADLINE: lambda _table, _round: None,  # the round is looked at before and after every event
        Kind.CHECK_IN: _check_in,
        Kind.FETCHED: _fetched,
        Kind.TRAINED: _trained,
        Kind.ARRIVED: _arrived,
        Kind.GONE: _gone,
    }
)
