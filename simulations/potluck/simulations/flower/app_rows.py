"""What a run of the Flower app writes down, as `potluck simulate` does: `potluck compare` reads both.

Flower has no clock.  The hours here are those of rounds in lockstep on the machines of the scenario: a round lasts as
long as the slowest of its clients downloads, trains and uploads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from potluck.aggregation.report import Report
from potluck.coordinator.phases import Phase
from potluck.simulations.flower.app_messages import LOSS_AFTER, LOSS_BEFORE, TOKENS, Arrived
from potluck.simulations.reports.tables import CLIENTS, ROUNDS, UPDATES, read_rows, write_rows
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow
from potluck.simulations.worlds.base import Person
from potluck.wire.recipe import Recipe

NAN: Final = float("nan")
HOUR_S: Final = 3_600.0
TENTH: Final = 10


class Ended(NamedTuple):
    """A round that has ended."""

    version: int
    """That it was to start from."""
    arrived: Sequence[Arrived]
    left_out: Mapping[str, str]
    """Why, by client."""
    report: Report | None
    """None where it made no version; then *reason* says why."""
    reason: str
    adapter_bytes: int
    """That each client downloaded."""
    wall_s: float


class Spent(NamedTuple):
    """Seconds that a client takes."""

    download: float
    train: float
    upload: float


@final
@dataclass(slots=True)
class Journal:
    """The rows of one run, and who is in it."""

    root: Path
    people: Mapping[str, Person]
    rounds: list[RoundRow] = field(default_factory=list)
    updates: list[UpdateRow] = field(default_factory=list)
    clients: dict[str, ClientRow] = field(default_factory=dict)

    @classmethod
    def begin(cls, root: Path, recipe: Recipe, people: Sequence[Person], rounds: int) -> "Journal":
        """Return the rows of the run in *root*, of which so many *rounds* have ended; none at its beginning.

        Raises:
            BadTable: its rows are damaged.
        """
        known = {person.name: person for person in people}
        if rounds and (root / ROUNDS).exists():
            clients = {row.client: row for row in read_rows(root / CLIENTS, ClientRow)}
            kept = [row for row in read_rows(root / ROUNDS, RoundRow) if row.round <= rounds]
            updates = [row for row in read_rows(root / UPDATES, UpdateRow) if row.round <= rounds]
            return cls(root, known, kept, updates, clients)
        return cls(root, known, clients={name: _beginning(person, recipe) for name, person in known.items()})

    def round_ended(self, ended: Ended) -> None:
        """Write down a round."""
        began_h, number = (self.rounds[-1].ended_h if self.rounds else 0.0), len(self.rounds) + 1
        spent = {each.name: self._spent(each, ended.adapter_bytes) for each in ended.arrived}
        ended_h = began_h + max((sum(each) for each in spent.values()), default=0.0) / HOUR_S
        outcome, reason = ("counted", "") if ended.report else ("late", f"its round was given up: {ended.reason}")
        facts = weighed(ended.report) if ended.report else [{"reason": reason} for _ in ended.arrived]
        blank = _lease(number, ended.version, (began_h, ended_h))
        for each, told in zip(ended.arrived, facts, strict=True):
            took = spent[each.name]
            row = replace(_claimed(blank, each), outcome=outcome, ended_h=began_h + sum(took) / HOUR_S, **told)
            self.updates.append(replace(row, download_s=took.download, train_s=took.train, upload_s=took.upload))
            self._count(each, counted=bool(ended.report))
        for name, why in ended.left_out.items():
            self.updates.append(replace(blank, client=name, outcome="rejected", reason=why))
        self.rounds.append(_round(ended, number, (began_h, ended_h)))
        self._write()

    def measured(self, losses: Mapping[str, tuple[float, int]]) -> None:
        """Write down what the present version does on clients' held-out text: (nats per token, tokens) by name."""
        for name in losses.keys() & self.clients.keys():
            row, loss = self.clients[name], float(losses[name][0])
            self.clients[name] = replace(row, loss=loss) if self.rounds else replace(row, loss=loss, loss_base=loss)
        if self.rounds:
            mean, worst = over(list(losses.values()))
            self.rounds[-1] = replace(self.rounds[-1], loss=mean, loss_worst_decile=worst)
        self._write()

    def _spent(self, each: Arrived, adapter_bytes: int) -> Spent:
        """Return what its machine takes for an update; nothing where nodes brought their own text."""
        person = self.people.get(each.name)
        if person is None:
            return Spent(0.0, 0.0, 0.0)
        device, tokens = person.device, int(each.facts[TOKENS])
        return Spent(device.download_s(adapter_bytes), device.train_s(tokens), device.upload_s(len(each.data)))

    def _count(self, each: Arrived, *, counted: bool) -> None:
        blank = ClientRow(each.name, "its own", 0, each.examples, 0, False, 0, 0, NAN, NAN)  # noqa: FBT003 - a row
        row = self.clients.get(each.name, blank)
        self.clients[each.name] = replace(
            row, examples=each.examples, leases=row.leases + 1, counted=row.counted + counted
        )

    def _write(self) -> None:
        write_rows(self.root / ROUNDS, self.rounds, RoundRow)
        write_rows(self.root / UPDATES, self.updates, UpdateRow)
        write_rows(self.root / CLIENTS, list(self.clients.values()), ClientRow)


def over(losses: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return nats per token over all tokens, and the mean over the tenth of the clients that is served worst."""
    worst = sorted((loss for loss, _ in losses), reverse=True)[: math.ceil(len(losses) / TENTH)]
    tokens = sum(count for _, count in losses)
    return math.fsum(loss * count for loss, count in losses) / tokens, math.fsum(worst) / len(worst)


def weighed(report: Report) -> list[dict[str, Any]]:
    """Return what a round made of each update, in their order."""
    facts: list[dict[str, Any]] = [{"weight": float(weight), "share": NAN, "reason": ""} for weight in report.weights]
    for verdict in report.verdicts:
        facts[verdict.place] |= {"share": float(verdict.share), "reason": "; ".join(verdict.reasons)}
    return facts


def _round(ended: Ended, number: int, hours: tuple[float, float]) -> RoundRow:
    report, asked = ended.report, len(ended.arrived) + len(ended.left_out)
    return RoundRow(
        round=number,
        version=ended.version + (report is not None),
        ended=(Phase.COMMITTED if report else Phase.ABANDONED).name,
        reason=ended.reason,
        began_h=hours[0],
        ended_h=hours[1],
        leases=asked,
        updates=len(ended.arrived) if report else 0,
        dropped=len(ended.left_out),
        late=0 if report else len(ended.arrived),
        hostile=0,
        bytes_up=sum(len(each.data) for each in ended.arrived),
        bytes_down=asked * ended.adapter_bytes,
        tokens=sum(int(each.facts[TOKENS]) for each in ended.arrived) if report else 0,
        loss=NAN,
        loss_worst_decile=NAN,
        truncation=float(report.total.relative_error) if report else NAN,
        cpu_s=0.0,  # Flower's workers do not say
        wall_s=ended.wall_s,
    )


def _lease(number: int, version: int, hours: tuple[float, float]) -> UpdateRow:
    """Return the row of a lease that came to nothing."""
    return UpdateRow(
        round=number,
        client="",
        version=version,
        outcome="",
        staleness=0,
        leased_h=hours[0],
        ended_h=hours[1],
        download_s=0.0,
        train_s=0.0,
        upload_s=0.0,
        bytes_up=0,
        examples=0,
        steps=0,
        tokens=0,
        loss_before=0.0,
        loss_after=0.0,
        share=NAN,
        weight=NAN,
        reason="",
        hostile=False,
    )


def _claimed(row: UpdateRow, each: Arrived) -> UpdateRow:
    """Return *row* with what a client says of its update."""
    return replace(
        row,
        client=each.name,
        bytes_up=len(each.data),
        examples=each.examples,
        steps=each.steps,
        tokens=int(each.facts[TOKENS]),
        loss_before=float(each.facts[LOSS_BEFORE]),
        loss_after=float(each.facts[LOSS_AFTER]),
    )


def _beginning(person: Person, recipe: Recipe) -> ClientRow:
    """Return a client's row before the first round."""
    return ClientRow(
        client=person.name,
        device=person.device.name,
        rank=person.rank or recipe.adapter.rank,
        examples=0,
        bytes_of_text=sum(file.stat().st_size for file in person.data.iterdir()),
        hostile=person.hostile,
        leases=0,
        counted=0,
        loss_base=NAN,
        loss=NAN,
    )
