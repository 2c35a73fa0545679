"""How a round moves on: what rounds.py decides, written into the store within the transaction that caused it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from potluck.coordinator import rounds
from potluck.coordinator.phases import Event, Phase, after
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import Input, LeaseRecord, LeaseState, RoundRecord, UpdateRecord, UpdateState


@contextmanager
def turn(site: Site) -> Iterator[Books]:
    """One writing transaction, before and after which the round is where what has happened puts it.

    Raises:
        Superseded: another coordinator took over.
        Refusal: the disk is full, or the database stayed locked.
    """
    with site.store.writing(site.fence) as books:
        closed = advance(site, books)  # its time may have run out, which nobody has noticed yet
        yield books
        closed = advance(site, books) or closed
    if closed:
        site.on_step(Step.PREPARE, When.AFTER)
        site.bell.set()


def look(books: Books, now_s: float) -> rounds.Situation:
    """Return where the run stands."""
    run, current = books.run(), books.rounds.current()
    return rounds.Situation(
        version=run.version,
        combining=len(books.rounds.combining()),
        round=None if current is None else current.number,
        phase=None if current is None else current.phase,
        received=0 if current is None else books.intake.received(current.number),
        leased=0 if current is None else books.leases.alive_in(current.number, now_s),
        age_s=None if current is None or current.started_s is None else now_s - current.started_s,
        paused=run.paused,
    )


def hold(lease: LeaseRecord, now_s: float) -> rounds.Hold:
    """Return *lease* as decisions see it."""
    return rounds.Hold(
        lease.lease_id, lease.round, lease.version, alive=lease.alive(now_s), open=lease.state is LeaseState.OPEN
    )


def due(site: Site, books: Books) -> Event | None:
    """Return what has happened to the open round and is not written down yet, if anything."""
    return rounds.event(site.plan.terms, look(books, site.clock.now_s()))


def advance(site: Site, books: Books) -> bool:
    """Move the open round on by what has happened to it; open one where none is; return whether one closed."""
    current = books.rounds.current()
    if current is None:
        open_round(site, books)
        return False
    happened = due(site, books)
    if happened is None:
        return False
    phase = after(current.phase, happened)
    if phase is Phase.AGGREGATING:
        fix_inputs(site, books, current)
    elif phase is Phase.ABANDONED:
        abandon(site, books, current, happened)
    else:
        books.rounds.enter(current.number, phase)
    return phase is Phase.AGGREGATING


def open_round(site: Site, books: Books) -> None:
    """Open the next round, where one may be open now.

    An asynchronous round opens as soon as the one before has its inputs; a synchronous one hands out the version that
    the one before makes, and waits for it.
    """
    terms = site.plan.terms
    situation = look(books, site.clock.now_s())
    coming = situation.version + situation.combining
    if situation.round is not None or 0 < terms.last_version <= coming or (terms.synchronous and situation.combining):
        return
    opened = books.rounds.open(terms.opening, site.clock.now_s())
    books.log.append("round_opened", round=opened.number, mode="synchronous" if terms.synchronous else "asynchronous")


def fix_inputs(site: Site, books: Books, current: RoundRecord) -> None:
    """Close a round over the updates that wait in it."""
    updates = books.intake.of_round(current.number, UpdateState.WAITING)
    books.intake.move(current.number, UpdateState.WAITING, UpdateState.FIXED)
    close(site, books, current, sorted((_input(update) for update in updates), key=_order))


def close(site: Site, books: Books, current: RoundRecord, inputs: Sequence[Input]) -> None:
    """Close a round: from here on it is these inputs, in this order, whatever happens."""
    site.on_step(Step.PREPARE, When.BEFORE)
    books.rounds.fix_inputs(current.number, inputs)
    books.rounds.enter(current.number, Phase.AGGREGATING)
    open_round(site, books)
    site.on_step(Step.PREPARE, When.INSIDE)


def drop_stale(site: Site, books: Books) -> None:
    """Take those updates out of the open round whose start lies too far behind since the master was moved."""
    now = look(books, site.clock.now_s())
    if now.round is not None:
        waiting = books.intake.of_round(now.round, UpdateState.WAITING)
        most = site.plan.terms.max_staleness
        books.intake.drop(one.lease_id for one in waiting if rounds.staleness(now, one.version) > most)


def abandon(site: Site, books: Books, current: RoundRecord, why: Event, words: str = "") -> None:
    """End a round without a version.  Its updates stay credited; the next round opens."""
    reason = words or why.value
    for state in (UpdateState.WAITING, UpdateState.FIXED):
        books.intake.move(current.number, state, UpdateState.DROPPED)
    entry = books.log.append("round_abandoned", round=current.number, reason=reason)
    books.rounds.enter(
        current.number,
        after(current.phase, why),
        ended_s=site.clock.now_s(),
        reason=reason,
        log_index=entry.index,
    )
    open_round(site, books)


def _input(update: UpdateRecord) -> Input:
    return Input(update.digest, update.version, update.examples, update.steps, update.lease_id)


def _order(one: Input) -> tuple[bytes, int, int, int, bytes]:
    """Sort by content first; lease ids, which are random, decide only between inputs that are equal in all else."""
    return one.digest, one.version, one.examples, one.steps, one.lease_id
