"""The end of a round: what it combined, the version that came of it, and its row."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from potluck.aggregation import Report
from potluck.aggregation.errors import PotluckError
from potluck.coordinator.checkpoints import Checkpoint, read_checkpoint
from potluck.coordinator.combine import combined
from potluck.coordinator.phases import Event, Phase, after
from potluck.simulations.rows import RoundRow
from potluck.simulations.running.forging import Input, inputs_of
from potluck.simulations.running.standing import Published
from potluck.simulations.running.table import HOUR_S, NAN, Table


def close(table: Table, abandoned: Event | None) -> None:
    """End the open round: combine its updates, or give them up where it was *abandoned*."""
    at = table.standing
    if abandoned is not None:
        _give_up(table, [], Phase.ABANDONED, abandoned.value)
        return
    inputs, refused = inputs_of(table, at.version)
    for lease, why in refused:
        table.end(lease, "rejected", reason=why)
    try:
        report = _combine(table, inputs)
    except (PotluckError, np.linalg.LinAlgError) as error:
        _give_up(table, inputs, after(Phase.AGGREGATING, Event.UNUSABLE), str(error))
        return
    for one, facts in zip(inputs, _weighed(report), strict=True):
        table.end(one.lease, "counted", staleness=one.update.staleness, **facts)
    at.waiting.clear()
    at.version += 1
    _forget_versions(table)
    _row(table, inputs, after(Phase.AGGREGATING, Event.STORED), "", report.total.relative_error)


def _combine(table: Table, inputs: Sequence[Input]) -> Report:
    """Make the next version of *inputs*, by the coordinator's own function.

    Raises:
        PotluckError, LinAlgError: the rule refuses them.
    """
    at, blobs = table.standing, table.packing.blobs
    name = at.published.checkpoint
    before = read_checkpoint(blobs.get(name)) if name else Checkpoint()
    made = combined(table.plan.recipe, [one.update for one in inputs], before)
    names = blobs.put(made.checkpoint), blobs.put(made.adapter)
    at.versions[at.version + 1] = Published(*names, len(made.adapter))
    return made.report


def _weighed(report: Report) -> list[dict[str, object]]:
    """Return what a round made of each update, in their order."""
    facts: list[dict[str, object]] = [
        {"weight": float(weight), "share": NAN, "reason": ""} for weight in report.weights
    ]
    for verdict in report.verdicts:
        facts[verdict.place] |= {"share": float(verdict.share), "reason": "; ".join(verdict.reasons)}
    return facts


def _give_up(table: Table, inputs: Sequence[Input], phase: Phase, reason: str) -> None:
    """End a round without a version; its updates are spent."""
    for lease in [one.lease for one in inputs] or table.standing.waiting:
        table.end(lease, "late", reason=f"its round was given up: {reason}")
    at = table.standing
    at.waiting.clear()
    for client in at.clients:  # nothing of theirs counts from this version, so they may try again
        if client.counted_version == at.version:
            client.counted_version = -1
    _row(table, (), phase, reason, NAN)


def _forget_versions(table: Table) -> None:
    """Forget the versions that no lease starts from any more."""
    at = table.standing
    used = {at.version, *(lease.version for lease in at.leases.values())}
    for version in at.versions.keys() - used:
        del at.versions[version]


def _row(table: Table, inputs: Sequence[Input], phase: Phase, reason: str, truncation: float) -> None:
    at, tally = table.standing, table.standing.tally
    began_s = at.at_s if tally.began_s is None else tally.began_s
    table.rows.rounds.append(
        RoundRow(
            round=at.round,
            version=at.version,
            ended=phase.name,
            reason=reason,
            began_h=began_s / HOUR_S,
            ended_h=at.at_s / HOUR_S,
            leases=tally.leases,
            updates=len(inputs),
            dropped=tally.dropped,
            late=tally.late,
            hostile=sum(table.person(one.lease).hostile for one in inputs),
            bytes_up=tally.bytes_up,
            bytes_down=tally.bytes_down,
            tokens=sum(one.lease.sealed.tokens for one in inputs if one.lease.sealed),
            loss=NAN,
            loss_worst_decile=NAN,
            truncation=float(truncation),
            cpu_s=0.0,
            wall_s=0.0,
        )
    )


def measured_row(row: RoundRow, losses: Sequence[tuple[float, int]]) -> RoundRow:
    """Return *row* with what the version does on each measured client's held-out text: (nats per token, tokens)."""
    if not losses:
        return row
    tokens = sum(count for _, count in losses)
    worst = sorted((loss for loss, _ in losses), reverse=True)[: math.ceil(len(losses) / 10)]
    mean = math.fsum(loss * count for loss, count in losses) / tokens
    return replace(row, loss=mean, loss_worst_decile=math.fsum(worst) / len(worst))


class Costs:
    """What a round costs this machine."""

    def __init__(self, fleet_cpu_s: float) -> None:
        self._begun = time.monotonic(), time.process_time() + fleet_cpu_s

    def on(self, row: RoundRow, fleet_cpu_s: float) -> RoundRow:
        """Return *row* with them."""
        wall_s, cpu_s = self._begun
        return replace(row, wall_s=time.monotonic() - wall_s, cpu_s=max(0.0, time.process_time() + fleet_cpu_s - cpu_s))
