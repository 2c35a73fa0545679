"""What a secure sum leaves in the store: who is in it, before its masks are taken off, and then the sum, or nothing.

The sum takes the place of a round's updates: one input, the mean of the cohort, from which on everything goes as in
any other round.  The updates themselves were never here.
"""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from potluck.aggregation import encode
from potluck.coordinator.meeting import Cost, Guest
from potluck.coordinator.phases import Event, after
from potluck.coordinator.progress import close, look, open_round, turn
from potluck.coordinator.receipts import Outcome, give, too_late
from potluck.coordinator.renewal import renew
from potluck.coordinator.secure.results import Summed
from potluck.coordinator.secure.unmasking import Suspect
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import Input, UpdateRecord, UpdateState
from potluck.wire.envelopes import peer_id
from potluck.wire.recipe import Recipe
from potluck.wire.sums import unflattened
from potluck.wire.v1 import work_pb2 as pb

LOG = logging.getLogger(__name__)
NONE: Final[Mapping[bytes, Cost]] = MappingProxyType({})


class Lost(NamedTuple):
    """A sum that came to nothing, as far as it is known: after a restart, nothing is."""

    sid: bytes = b""
    suspects: Sequence[Suspect] = ()
    """Because of whom it did."""
    costs: Mapping[bytes, Cost] = NONE
    """By lease, what its private rounds cost a member, as it said when it came."""


UNKNOWN: Final = Lost()


def mark(site: Site, version: int, members: Sequence[Guest]) -> bool:
    """Step REVEAL: write down whose updates are in a sum, before they are asked to sign it; return whether they may be.

    Whoever signs has spent its update, so it gets its receipt whatever becomes of the sum.  They may not be in it where
    the operator moved the master meanwhile, or the run is done.  Nothing is revealed then.
    """
    site.on_step(Step.REVEAL, When.BEFORE)
    with turn(site) as books:
        now = look(books, site.clock.now_s())
        if now.version != version or now.round is None:
            return False
        for guest in members:
            books.intake.accept(_record(site.plan.recipe, guest, now.round))
        site.on_step(Step.REVEAL, When.INSIDE)
    site.on_step(Step.REVEAL, When.AFTER)
    return True


def land(site: Site, version: int, sid: bytes, summed: Summed, costs: Mapping[bytes, Cost] = NONE) -> None:
    """Step SPOOL: keep the sum, give the cohort its receipts, and close the round over it, all in one transaction.

    Where it is known what became of the sum, since what comes after failed and it is all done again, nothing happens.
    *costs*: by lease, what its private rounds cost a member, as it said when it came.
    """
    with site.store.reading() as books:
        if not books.intake.masked():
            return
    mean = unflattened(summed.total / summed.weight, site.plan.manifest(version))
    site.on_step(Step.SPOOL, When.BEFORE)
    digest = site.folders.spool.put(encode(mean, "fp64"))
    with turn(site) as books:
        current = books.rounds.current()
        if current is None or books.run().version != version:
            _spend(site, books, "the shared adapter was moved while the sum went on", costs)
            return
        updates = books.intake.masked()
        books.intake.settle_masked(UpdateState.FIXED, round=current.number, loss_after=summed.tally.loss or 0.0)
        for update in updates:
            cost = costs.get(update.lease_id)
            outcome = Outcome(update.digest, pb.VERDICT_ACCEPTED, update.examples, current.number, 1.0, cost=cost)
            _answer(site, books, update, outcome)
        _tell(site, books, current.number, digest, sid, summed)
        books.rounds.enter(current.number, after(current.phase, Event.SUMMED))
        first = updates[0]
        together = sum(update.examples for update in updates)
        close(site, books, current, [Input(digest, version, together, first.steps, first.lease_id)])
        site.on_step(Step.SPOOL, When.INSIDE)
    site.on_step(Step.SPOOL, When.AFTER)
    site.on_step(Step.PREPARE, When.AFTER)
    site.bell.set()


def lose(site: Site, books: Books, reason: str, lost: Lost = UNKNOWN) -> None:
    """End what a sum left behind that came to nothing, if there is any: its updates are spent, and credited."""
    if books.intake.masked():
        _suspect(books, lost.sid, lost.suspects)
        _spend(site, books, reason, lost.costs)
        renew(site, books, reason)
        open_round(site, books)


def _spend(site: Site, books: Books, reason: str, costs: Mapping[bytes, Cost]) -> None:
    """Give the members of a lost sum their receipts; their updates are in no version.

    Where noise protects volunteers, how many they are is for the operator's terminal only.
    """
    now = look(books, site.clock.now_s())
    updates = books.intake.masked()
    for update in updates:
        cost = costs.get(update.lease_id)
        _answer(site, books, update, too_late(now, update.digest, update.examples, cost))
    books.intake.settle_masked(UpdateState.DROPPED)
    members = {} if site.plan.recipe.privacy.differential.by_user else {"members": len(updates)}
    books.log.append("sum_lost", reason=reason, **members)
    LOG.warning("event=sum_lost members=%d reason=%s", len(updates), reason)


def _answer(site: Site, books: Books, update: UpdateRecord, outcome: Outcome) -> None:
    lease = books.leases.find(update.lease_id)
    if lease is not None and books.intake.receipt(update.lease_id) is None:
        give(site, books, lease, outcome)


def _tell(site: Site, books: Books, number: int, digest: bytes, sid: bytes, summed: Summed) -> None:
    """Write into the log what anybody may check of a sum: its members, and the hashes of what they signed.

    Where noise is added, nothing of what it is added to: with its hash a guess at the sum could be proven right.
    """
    exact = {"sum_digest": summed.digest, "digest": digest, "clipped": summed.tally.clipped}
    books.log.append(
        "sum_revealed",
        round=number,
        sid=sid,
        members=[update.client_id for update in books.intake.of_round(number, UpdateState.FIXED)],
        roster_hash=summed.roster_hash,
        survivors_hash=summed.survivors_hash,
        **({} if site.plan.recipe.privacy.differential.by_user else exact),
    )
    _suspect(books, sid, summed.suspects)


def _suspect(books: Books, sid: bytes, suspects: Sequence[Suspect]) -> None:
    """Tell of shares that did not fit: to all in the log, by keys, and on the operator's terminal, by ids."""
    for suspect in suspects:
        books.log.append("share_did_not_fit", sid=sid, holder=suspect.holder, dealer=suspect.dealer)
        LOG.warning(
            "event=share_did_not_fit sid=%s dealer=%s holder=%s proven=%s",
            sid.hex(),
            peer_id(suspect.dealer),
            peer_id(suspect.holder) if suspect.holder else "all",
            suspect.proven,
        )


def nominal(recipe: Recipe) -> int:
    """Return the examples that an update counts that nobody has read: as many as the recipe asks for."""
    return min(recipe.training.steps * recipe.training.batch, recipe.admission.max_examples)


def _record(recipe: Recipe, guest: Guest, number: int) -> UpdateRecord:
    """Return an update that nobody has read: what it claims is what the recipe asks of everybody."""
    training = recipe.training
    return UpdateRecord(
        lease_id=guest.lease_id,
        client_id=guest.client_id,
        round=number,
        version=guest.version,
        digest=guest.digest,
        size=0,
        examples=nominal(recipe),
        steps=training.steps,
        staleness=0,
        tokens=0,
        loss_before=0.0,
        loss_after=0.0,
        state=UpdateState.MASKED,
    )
