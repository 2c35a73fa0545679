"""What hostile clients send in place of what they trained: made from the honest updates of the same round."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from potluck.aggregation import Update, deltas
from potluck.aggregation.errors import BadTensor, BadUpdate
from potluck.simulations.attacks import ATTACKS
from potluck.simulations.running.packing import Start
from potluck.simulations.running.standing import Lease, Sealed
from potluck.simulations.running.table import Table
from potluck.simulations.worlds.chance import generator


class Input(NamedTuple):
    """One update of a round that closes."""

    lease: Lease
    update: Update

    @property
    def order(self) -> tuple[bytes, int, int, int, int]:
        """By content first, as a coordinator sorts its inputs."""
        return self.update.key, self.lease.version, self.update.examples, self.update.steps, self.lease.number


class Refused(NamedTuple):
    """One that a coordinator would not take."""

    lease: Lease
    why: str


def inputs_of(table: Table, onto: int) -> tuple[list[Input], list[Refused]]:
    """Return the updates of the round that closes, in a coordinator's order, and those that it would refuse."""
    honest, refused, hostile = [], [], []
    for lease in table.standing.waiting:
        if table.person(lease).hostile and table.world.attack:
            hostile.append(lease)
            continue
        try:
            honest.append(Input(lease, opened(table, lease, onto)))
        except BadTensor as error:
            refused.append(Refused(lease, str(error)))
    forged = list(honest)
    for lease, made in _forgeries(table, hostile, honest):
        try:
            forged.append(_sent(table, lease, made, onto))
        except BadTensor as error:
            refused.append(Refused(lease, str(error)))
    return sorted(forged, key=lambda one: one.order), refused


def opened(table: Table, lease: Lease, onto: int) -> Update:
    """Return the update of *lease* as a coordinator reads it.

    Raises:
        BadTensor: it would not take it.
    """
    return table.packing.open(lease, _sealed(lease), _start(table, lease), onto)


def _forgeries(
    table: Table, hostile: Sequence[Lease], honest: Sequence[Input]
) -> Iterator[tuple[Lease, Update | None]]:
    """Yield what each hostile client sends; None where nobody honest started as it did: it cannot hide then."""
    attack = ATTACKS[table.world.attack](**table.world.attack_settings) if hostile else None
    groups: dict[tuple[int, int], list[Lease]] = {}
    for lease in hostile:
        groups.setdefault(_kind(table, lease), []).append(lease)
    for kind, leases in groups.items():
        like = [one.update for one in honest if _kind(table, one.lease) == kind]
        chance = generator(table.world.seed, "attack", table.standing.round, *kind)
        made: Sequence[Update | None] = [None] * len(leases)
        if attack is not None:
            with suppress(BadUpdate):
                made = attack(like, len(leases), chance)
        yield from zip(leases, made, strict=True)


def _sent(table: Table, lease: Lease, made: Update | None, onto: int) -> Input:
    """Return what a hostile client sends: as it travels where it has the honest rank, and else as it is.

    Raises:
        BadTensor: a coordinator would not take it.
    """
    if made is None:
        return Input(lease, opened(table, lease, onto))
    began = _start(table, lease)
    if any(made.trained[name].rank != began[name].rank for name in began):
        key = hashlib.sha256(f"forged/{lease.number}".encode()).digest()
        return Input(lease, replace(made, key=key))  # exact in the products: more than a coordinator lets through
    moves = table.plan.recipe.moves(lease.version)
    lease.sealed = table.packing.forged(_sealed(lease), deltas(made.trained, began, moves))
    return Input(lease, opened(table, lease, onto))


def _kind(table: Table, lease: Lease) -> tuple[int, int]:
    """Return what two leases have in common that start from the same factors."""
    return lease.version, table.person(lease).rank


def _start(table: Table, lease: Lease) -> Start:
    return table.packing.start(lease.version, table.standing.versions[lease.version], table.person(lease).rank)


def _sealed(lease: Lease) -> Sealed:
    if lease.sealed is None:
        raise BadTensor(f"lease {lease.number} has no update", fix="report this bug")
    return lease.sealed
