"""Rounds and their inputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Final, final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from potluck.coordinator.phases import OPEN, Phase
from potluck.coordinator.store.records import Input, RoundRecord
from potluck.coordinator.store.tables import InputRow, RoundRow

_OPEN: Final = tuple(phase.name for phase in OPEN)


@final
@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds and the exact list of what each combines."""

    session: Session

    def open(self, phase: Phase, now_s: float) -> RoundRecord:
        """Open the next round."""
        last = self.session.scalar(select(RoundRow.number).order_by(RoundRow.number.desc()).limit(1)) or 0
        row = RoundRow(
            number=last + 1,
            phase=phase.name,
            opened_s=now_s,
            started_s=None,
            ended_s=None,
            reason="",
            version=None,
            log_index=None,
        )
        self.session.add(row)
        self.session.flush()
        return _round(row)

    def find(self, number: int) -> RoundRecord | None:
        """Return the round with that number."""
        row = self.session.get(RoundRow, number)
        return None if row is None else _round(row)

    def current(self) -> RoundRecord | None:
        """Return the round that takes updates, if any."""
        row = self.session.scalar(select(RoundRow).where(RoundRow.phase.in_(_OPEN)).order_by(RoundRow.number.desc()))
        return None if row is None else _round(row)

    def combining(self) -> tuple[RoundRecord, ...]:
        """Return the rounds whose inputs are fixed and that made no version yet, the oldest first."""
        found = select(RoundRow).where(RoundRow.phase == Phase.AGGREGATING.name).order_by(RoundRow.number)
        return tuple(_round(row) for row in self.session.scalars(found))

    def refused_in_a_row(self) -> int:
        """Return how many of the last rounds that were combined had their version refused, none committed between."""
        ends = (Phase.COMMITTED.name, Phase.REFUSED.name)
        found = select(RoundRow.phase).where(RoundRow.phase.in_(ends)).order_by(RoundRow.number.desc())
        return sum(1 for _ in takewhile(lambda name: name == Phase.REFUSED.name, self.session.scalars(found)))

    def last(self, count: int) -> tuple[RoundRecord, ...]:
        """Return the last *count* rounds, the newest first."""
        found = select(RoundRow).order_by(RoundRow.number.desc()).limit(count)
        return tuple(_round(row) for row in self.session.scalars(found))

    def ended(self, after: int, count: int) -> tuple[RoundRecord, ...]:
        """Return the last *count* rounds above number *after* that have ended, the newest first."""
        found = (
            select(RoundRow)
            .where(RoundRow.number > after, RoundRow.log_index.is_not(None))
            .order_by(RoundRow.number.desc())
            .limit(count)
        )
        return tuple(_round(row) for row in self.session.scalars(found))

    def start(self, number: int, now_s: float) -> None:
        """Note when a round's first lease was granted; later ones change nothing."""
        self.session.execute(
            update(RoundRow).where(RoundRow.number == number, RoundRow.started_s.is_(None)).values(started_s=now_s)
        )

    def enter(self, number: int, phase: Phase, **values: object) -> None:
        """Move a round to *phase*, and set ended_s, reason, version or log_index with it."""
        row = self.session.get_one(RoundRow, number)
        row.phase = phase.name
        for name, value in values.items():
            setattr(row, name, value)
        self.session.flush()

    def fix_inputs(self, number: int, inputs: Sequence[Input]) -> None:
        """Write down what the round combines, in this order."""
        self.session.add_all(InputRow(round=number, position=place, **asdict(one)) for place, one in enumerate(inputs))
        self.session.flush()

    def inputs(self, number: int) -> tuple[Input, ...]:
        """Return what the round combines, in the order in which it does."""
        found = select(InputRow).where(InputRow.round == number).order_by(InputRow.position)
        return tuple(
            Input(row.digest, row.version, row.examples, row.steps, row.lease_id) for row in self.session.scalars(found)
        )


def _round(row: RoundRow) -> RoundRecord:
    return RoundRecord(
        number=row.number,
        phase=Phase[row.phase],
        opened_s=row.opened_s,
        started_s=row.started_s,
        ended_s=row.ended_s,
        reason=row.reason,
        version=row.version,
        log_index=row.log_index,
    )
