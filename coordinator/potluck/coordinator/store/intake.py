"""Accepted updates, the receipts that were given for them, and credit."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from potluck.coordinator.store.records import ReceiptRecord, UpdateRecord, UpdateState
from potluck.coordinator.store.tables import CreditRow, InputRow, LedgerRow, ReceiptRow, UpdateRow

LIVE: Final = tuple(map(str, (UpdateState.WAITING, UpdateState.MASKED, UpdateState.FIXED, UpdateState.COUNTED)))
SPOOLED: Final = (str(UpdateState.WAITING), str(UpdateState.FIXED))


@final
@dataclass(frozen=True, slots=True)
class Intake:
    """Updates, receipts and the ledger of credit."""

    session: Session

    def accept(self, record: UpdateRecord) -> None:
        """Write down an accepted update."""
        self.session.add(UpdateRow(**(asdict(record) | {"state": str(record.state)})))
        self.session.flush()

    def of_round(self, round_number: int, state: UpdateState) -> tuple[UpdateRecord, ...]:
        """Return the updates of a round in that *state*, in no particular order."""
        found = select(UpdateRow).where(UpdateRow.round == round_number, UpdateRow.state == str(state))
        return tuple(_update(row) for row in self.session.scalars(found))

    def received(self, round_number: int) -> int:
        """Return how many updates an open round has."""
        return self._count(UpdateRow.round == round_number, UpdateRow.state == str(UpdateState.WAITING))

    def contributed(self, client_id: str, version: int, round_number: int | None) -> bool:
        """Whether an update of that client that started from *version*, or that is in that round, counts or will.

        One for each version, so that fast clients do not outweigh the others; one for each round, so that a client
        that hoarded leases of many versions does not make a whole round by itself.
        """
        same = or_(UpdateRow.version == version, UpdateRow.round == round_number)
        return bool(self._count(UpdateRow.client_id == client_id, same, UpdateRow.state.in_(LIVE)))

    def rounds_of(self, client_id: str) -> tuple[int, ...]:
        """Return the rounds that a client took part in, in order; not those that it withdrew from in time."""
        chosen = (UpdateRow.client_id == client_id, UpdateRow.state != str(UpdateState.WITHDRAWN))
        return tuple(self.session.scalars(select(UpdateRow.round).where(*chosen).distinct().order_by(UpdateRow.round)))

    def participations(self, besides: int) -> dict[str, tuple[int, int]]:
        """Return how often each client took part, and in which round last; round *besides* does not count."""
        number = UpdateRow.round
        chosen = (number != besides, UpdateRow.state != str(UpdateState.WITHDRAWN))
        found = select(UpdateRow.client_id, func.count(number.distinct()), func.max(number)).where(*chosen)
        return {
            client: (int(times), int(last))
            for client, times, last in self.session.execute(found.group_by(UpdateRow.client_id))
        }

    def counted(self, client_id: str) -> int:
        """Return how many updates of a client versions contain."""
        return self._count(UpdateRow.client_id == client_id, UpdateRow.state == str(UpdateState.COUNTED))

    def move(self, round_number: int, start: UpdateState, end: UpdateState) -> None:
        """Move all updates of a round from one state to another."""
        self.session.execute(
            update(UpdateRow)
            .where(UpdateRow.round == round_number, UpdateRow.state == str(start))
            .values(state=str(end))
        )

    def masked(self) -> tuple[UpdateRecord, ...]:
        """Return the updates in the secure sum whose masks are being taken off."""
        found = select(UpdateRow).where(UpdateRow.state == str(UpdateState.MASKED)).order_by(UpdateRow.lease_id)
        return tuple(_update(row) for row in self.session.scalars(found))

    def settle_masked(self, state: UpdateState, **values: object) -> None:
        """Move the updates of that sum to *state*, and set round or loss_after with it."""
        self.session.execute(
            update(UpdateRow).where(UpdateRow.state == str(UpdateState.MASKED)).values(state=str(state), **values)
        )

    def drop(self, lease_ids: Iterable[bytes]) -> None:
        """Take these updates out of a round that still takes updates."""
        for lease_id in lease_ids:
            self.session.get_one(UpdateRow, lease_id).state = str(UpdateState.DROPPED)
        self.session.flush()

    def withdraw(self, client_id: str) -> int:
        """Take a client's updates out of rounds that still take updates; return how many."""
        chosen = (UpdateRow.client_id == client_id, UpdateRow.state == str(UpdateState.WAITING))
        found = self._count(*chosen)
        self.session.execute(update(UpdateRow).where(*chosen).values(state=str(UpdateState.WITHDRAWN)))
        return found

    def spooled(self) -> frozenset[bytes]:
        """Return the digests of all updates whose bytes are still needed, and of sums that are being combined."""
        inputs = select(InputRow.digest).join(UpdateRow, UpdateRow.lease_id == InputRow.lease_id)
        fixed = inputs.where(UpdateRow.state == str(UpdateState.FIXED))
        own = select(UpdateRow.digest).where(UpdateRow.state.in_(SPOOLED))
        return frozenset([*self.session.scalars(own), *self.session.scalars(fixed)])

    def needs(self, digest: bytes) -> bool:
        """Whether the bytes of that digest are those of an update that waits to be counted."""
        return bool(self._count(UpdateRow.digest == digest, UpdateRow.state.in_(SPOOLED)))

    def spooled_bytes(self) -> int:
        """Return the bytes of all updates that wait to be counted."""
        return self.session.scalar(select(func.sum(UpdateRow.size)).where(UpdateRow.state.in_(SPOOLED))) or 0

    def receipt(self, lease_id: bytes) -> ReceiptRecord | None:
        """Return the receipt that was given for a lease, if any."""
        row = self.session.get(ReceiptRow, lease_id)
        if row is None:
            return None
        return ReceiptRecord(row.lease_id, row.serial, row.digest, row.verdict, row.envelope, row.detail, row.flagged)

    def next_serial(self) -> int:
        """Return the number of the next receipt; two writers never see the same, since they take turns."""
        return (self.session.scalar(select(func.max(ReceiptRow.serial))) or 0) + 1

    def give_receipt(self, receipt: ReceiptRecord) -> None:
        """Keep a receipt for good."""
        self.session.add(ReceiptRow(**asdict(receipt)))
        self.session.flush()

    def flag(self, lease_id: bytes) -> bool:
        """Note that other bytes were sent for a lease with a receipt; return whether that is news."""
        row = self.session.get_one(ReceiptRow, lease_id)
        news, row.flagged = not row.flagged, True
        self.session.flush()
        return news

    def credit(self, client_id: str, lease_id: bytes, reason: str, amount: int, at_s: float) -> None:
        """Add an entry to the ledger."""
        self.session.add(CreditRow(client_id=client_id, lease_id=lease_id, reason=reason, amount=amount, at_s=at_s))
        self.session.flush()

    def credit_of(self, client_id: str) -> int:
        """Return the credit of one client, in examples."""
        return self.session.scalar(select(func.sum(CreditRow.amount)).where(CreditRow.client_id == client_id)) or 0

    def ledger_lines(self, client_id: str) -> int:
        """Return how long that client's ledger was when it was last told; 0: never."""
        row = self.session.get(LedgerRow, client_id)
        return 0 if row is None else row.lines

    def witness(self, client_id: str, lines: int) -> None:
        """Remember how long a client says its ledger is, if it has grown."""
        if lines > self.ledger_lines(client_id):
            self.session.merge(LedgerRow(client_id=client_id, lines=lines))
            self.session.flush()

    def _count(self, *conditions: object) -> int:
        found = select(func.count()).select_from(UpdateRow).where(*conditions)  # type: ignore[arg-type]
        return self.session.scalar(found) or 0


def _update(row: UpdateRow) -> UpdateRecord:
    return UpdateRecord(
        lease_id=row.lease_id,
        client_id=row.client_id,
        round=row.round,
        version=row.version,
        digest=row.digest,
        size=row.size,
        examples=row.examples,
        steps=row.steps,
        staleness=row.staleness,
        tokens=row.tokens,
        loss_before=row.loss_before,
        loss_after=row.loss_after,
        state=UpdateState(row.state),
    )
