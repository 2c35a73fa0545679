"""Clients and the invites that they came with."""

from dataclasses import asdict, dataclass
from typing import final

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session

from potluck.coordinator.store.records import Contribution, InviteRecord, Member, Standing, UpdateState
from potluck.coordinator.store.tables import CreditRow, InviteRow, MemberRow, UpdateRow


@final
@dataclass(frozen=True, slots=True)
class Members:
    """Clients that enrolled."""

    session: Session

    def find(self, client_id: str) -> Member | None:
        """Return the member called *client_id*, whatever its standing."""
        row = self.session.get(MemberRow, client_id)
        return None if row is None else _member(row)

    def add(self, member: Member) -> None:
        """Write down a new member."""
        self.session.add(MemberRow(**(asdict(member) | {"standing": str(member.standing)})))
        self.session.flush()

    def rejoin(self, client_id: str, *, invite_id: bytes, name: str, recipe_digest: bytes) -> None:
        """Make a client that left a member again, or note what it consented to last."""
        values = {"standing": str(Standing.ACTIVE), "invite_id": invite_id, "recipe_digest": recipe_digest}
        self.session.execute(
            update(MemberRow)
            .where(MemberRow.client_id == client_id)
            .values(**values, **({"name": name} if name else {}))
        )

    def set_standing(self, client_id: str, standing: Standing) -> None:
        """Change where a client stands."""
        self.session.execute(update(MemberRow).where(MemberRow.client_id == client_id).values(standing=str(standing)))

    def saw(self, client_id: str, *, boot_id: bytes, seqno: int, seen_s: float) -> None:
        """Note the last check-in of a client."""
        self.session.execute(
            update(MemberRow)
            .where(MemberRow.client_id == client_id)
            .values(boot_id=boot_id, seqno=seqno, seen_s=seen_s)
        )

    def active(self) -> int:
        """Return how many clients are members now."""
        found = select(func.count()).select_from(MemberRow).where(MemberRow.standing == str(Standing.ACTIVE))
        return self.session.scalar(found) or 0

    def active_ids(self) -> tuple[str, ...]:
        """Return which clients are members now."""
        found = select(MemberRow.client_id).where(MemberRow.standing == str(Standing.ACTIVE))
        return tuple(self.session.scalars(found))

    def all(self) -> tuple[Member, ...]:
        """Return every member, whatever its standing."""
        return tuple(_member(row) for row in self.session.scalars(select(MemberRow)))

    def contributions(self) -> tuple[Contribution, ...]:
        """Return what every client has given, the largest first."""
        sums = select(CreditRow.client_id, func.sum(CreditRow.amount)).group_by(CreditRow.client_id)
        counts = (
            select(UpdateRow.client_id, func.count())
            .where(UpdateRow.state == str(UpdateState.COUNTED))
            .group_by(UpdateRow.client_id)
        )
        credit = {client_id: int(amount) for client_id, amount in self.session.execute(sums)}
        counted = {client_id: int(count) for client_id, count in self.session.execute(counts)}
        found = [
            Contribution(
                row.client_id,
                row.name,
                Standing(row.standing),
                credit.get(row.client_id, 0),
                counted.get(row.client_id, 0),
                row.seen_s,
            )
            for row in self.session.scalars(select(MemberRow))
        ]
        return tuple(sorted(found, key=lambda one: (-one.credit, one.client_id)))


@final
@dataclass(frozen=True, slots=True)
class Invites:
    """Invites and their uses."""

    session: Session

    def add(self, invite: InviteRecord) -> None:
        """Write down a new invite."""
        self.session.add(InviteRow(**asdict(invite)))
        self.session.flush()

    def find(self, invite_id: bytes) -> InviteRecord | None:
        """Return the invite with that id."""
        row = self.session.get(InviteRow, invite_id)
        return None if row is None else _invite(row)

    def use(self, invite_id: bytes) -> bool:
        """Count one use, in one statement; return whether there was one left."""
        done = self.session.execute(
            update(InviteRow)
            .where(InviteRow.invite_id == invite_id, InviteRow.uses < InviteRow.max_uses, InviteRow.revoked.is_(False))
            .values(uses=InviteRow.uses + 1)
        )
        return isinstance(done, CursorResult) and done.rowcount == 1

    def revoke(self, invite_id: bytes) -> None:
        """Let nobody else in with it."""
        self.session.execute(update(InviteRow).where(InviteRow.invite_id == invite_id).values(revoked=True))

    def all(self) -> tuple[InviteRecord, ...]:
        """Return every invite, the newest first."""
        return tuple(
            _invite(row) for row in self.session.scalars(select(InviteRow).order_by(InviteRow.created_s.desc()))
        )


def _member(row: MemberRow) -> Member:
    return Member(
        row.client_id,
        row.public_key,
        row.name,
        Standing(row.standing),
        row.invite_id,
        row.recipe_digest,
        row.joined_s,
        row.boot_id,
        row.seqno,
        row.seen_s,
    )


def _invite(row: InviteRow) -> InviteRecord:
    return InviteRecord(row.invite_id, row.token, row.max_uses, row.uses, row.expires_s, row.revoked, row.created_s)
