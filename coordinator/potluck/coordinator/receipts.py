"""Receipts: the coordinator's signed word for what became of an update, and the credit that goes with it."""

import math
from dataclasses import dataclass
from typing import Final, final

from potluck.coordinator import rounds
from potluck.coordinator.meeting import Cost
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import LeaseRecord, LeaseState, ReceiptRecord
from potluck.wire.envelopes import Purpose, sign
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Envelope, ErrorDetail
from potluck.wire.v1.sums_pb2 import MeetRequest

MOST_LINES: Final = 1 << 30
"""Of a client's ledger; a row of the database holds no more."""
CREDITED: Final = {pb.VERDICT_ACCEPTED: "accepted", pb.VERDICT_TOO_LATE: "too_late"}
"""Why credit is given, by verdict; a rejected update earns none."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an update."""

    digest: bytes
    verdict: pb.Verdict
    examples: int
    """As claimed; what counts is capped."""
    round: int
    """The round that it counts in, or would have."""
    weight: float
    """Staleness weight; 0 where it does not count."""
    rejected: ErrorDetail | None = None
    cost: Cost | None = None
    """What its client says that it cost of its own text."""


def give(site: Site, books: Books, lease: LeaseRecord, outcome: Outcome) -> Envelope:
    """Sign a receipt, keep its bytes, give the credit, close the lease: all in the caller's transaction."""
    counted = min(outcome.examples, site.plan.recipe.admission.max_examples)
    credit = counted if outcome.verdict in CREDITED else 0
    receipt = pb.Receipt(
        run_id=site.run_id,
        client_id=lease.client_id,
        lease_id=lease.lease_id,
        round=outcome.round,
        version=lease.version,
        digest=outcome.digest,
        verdict=outcome.verdict,
        examples=counted,
        staleness_weight=outcome.weight,
        credit=credit,
        serial=books.intake.next_serial(),
        spent=_spent(site.plan.recipe, outcome),
    )
    if receipt.HasField("spent"):
        books.intake.witness(lease.client_id, receipt.spent.lines)
    envelope = sign(site.keys.signing, Purpose.RECEIPT, site.keys.coordinator_id, receipt)
    books.intake.give_receipt(
        ReceiptRecord(
            lease_id=lease.lease_id,
            serial=receipt.serial,
            digest=outcome.digest,
            verdict=outcome.verdict,
            envelope=envelope.SerializeToString(deterministic=True),
            detail=b"" if outcome.rejected is None else outcome.rejected.SerializeToString(deterministic=True),
        )
    )
    if credit:
        reason = CREDITED[outcome.verdict]
        books.intake.credit(lease.client_id, lease.lease_id, reason, credit, site.clock.now_s())
    books.leases.end(lease.lease_id, LeaseState.CLOSED)
    forget(site, books, lease.lease_id, outcome.digest)
    return envelope


def _spent(recipe: Recipe, outcome: Outcome) -> pb.Spent | None:
    """Return what the run costs of a client's privacy: of a whole run as the recipe says, of records as it told."""
    terms = recipe.privacy.differential
    if terms.by_user:
        return pb.Spent(unit=terms.unit, epsilon=terms.epsilon, delta=terms.delta)
    cost = outcome.cost
    if cost is None:
        return None
    return pb.Spent(unit=terms.unit, epsilon=cost.epsilon, delta=terms.delta, lines=cost.lines)


def cost_of(recipe: Recipe, request: pb.SubmitRequest | MeetRequest) -> Cost | None:
    """Return what a client says that its private rounds cost; None where *recipe* has none, or it says no number."""
    if not recipe.privacy.differential.by_example or not request.HasField("spent"):
        return None
    told = request.spent
    if not (math.isfinite(told.epsilon) and told.epsilon >= 0):
        return None
    return Cost(told.epsilon, min(told.lines, MOST_LINES))


def too_late(now: rounds.Situation, digest: bytes, examples: int, cost: Cost | None = None) -> Outcome:
    """Return the outcome of an update that can no longer count."""
    return Outcome(digest, pb.VERDICT_TOO_LATE, examples, now.round or 0, 0.0, cost=cost)


def forget(site: Site, books: Books, lease_id: bytes, digest: bytes) -> None:
    """Take back the right to send, and drop bytes that nobody needs.

    Within the writing transaction: an update with the same bytes is accepted only in another one, which looks whether
    they are still here.
    """
    upload = books.leases.upload_of(lease_id)
    books.leases.forget_upload(lease_id)
    if upload is not None:
        site.partials.drop(upload.upload_id)
    if not books.intake.needs(digest) and not books.leases.expects(digest):
        site.folders.spool.delete([digest])


def stored(receipt: ReceiptRecord) -> Envelope:
    """Return a receipt as it was given, byte for byte."""
    return Envelope.FromString(receipt.envelope)


def conflict(lease: LeaseRecord, first: bytes, second: bytes) -> Refusal:
    """Return the refusal of other bytes for a lease that has its receipt."""
    return Refusal(
        f"lease {lease.lease_id.hex()[:16]}… has its receipt for {first.hex()[:16]}…, not for {second.hex()[:16]}…",
        code="conflict",
        fix="the first stays; discard the second",
    )
