"""A round's updates as the arrays that Flower's strategies are given: one trained factor, in a basis that all share."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, MultiKrum, Strategy

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.rules.public import Public, TrainedFactor, moved_factor, public_part, same_basis
from potluck.aggregation.updates import Update
from potluck.simulations.flower.grid import Node

DEFENCES: Final = (FedMedian, FedTrimmedAvg, MultiKrum, Bulyan)
"""Flower's strategies that stand against some hostile updates; Krum is a MultiKrum."""


class Basis(NamedTuple):
    """A round in one basis."""

    updates: Sequence[Update]
    """In the order of their contents, so that no order of arrival matters."""
    factor: TrainedFactor
    begun: Mapping[str, Floats]
    """x per module: the trained factor that the freshest update began with, times its scale."""
    parts: Sequence[Mapping[str, Public]]
    """Per update and module."""


def in_one_basis(updates: Sequence[Update]) -> Basis:
    """Return *updates* in the coordinates of the one factor that all of them trained.

    Raises:
        BadUpdate: there are none, they differ in modules, or not all left the same other factor alone.
    """
    if not updates:
        raise BadUpdate("there are no updates to combine", fix="wait for at least one")
    ordered = sorted(updates, key=Update.digest)
    names = sorted(ordered[0].trained)
    if any(sorted(update.trained) != names for update in ordered):
        raise BadUpdate("the updates do not hold the same modules", fix="train the modules that the recipe names")
    moved = (moved_factor(*update.part_of(name)) for update in ordered for name in names)
    factor: TrainedFactor = next((each for each in moved if each), "b")
    parts = [
        {name: public_part(*update.part_of(name), where=name, factor=factor) for name in names} for update in ordered
    ]
    for each in parts[1:]:
        for name in names:
            same_basis(name, parts[0][name], each[name])
    freshest = min(range(len(ordered)), key=lambda place: ordered[place].staleness)
    begun = {}
    for name in names:
        trained, _ = ordered[freshest].part_of(name)
        whole = (trained.b if factor == "b" else trained.a).astype(np.float64) * trained.scale
        begun[name] = whole - parts[freshest][name].change
    return Basis(ordered, factor, begun, parts)


def answering(basis: Basis, place: int, names: Mapping[str, str], weighted_by: str) -> Node:
    """Return a node that answers with x + change of one update, as float64; *names* are the arrays' modules."""

    def node(message: Message) -> Message:
        parts = basis.parts[place]
        values = {name: Array(basis.begun[module] + parts[module].change) for name, module in names.items()}
        metrics = MetricRecord({weighted_by: basis.updates[place].examples})
        return Message(RecordDict({"arrays": ArrayRecord(values), "metrics": metrics}), reply_to=message)

    return node


def check_count(strategy: Strategy, basis: Basis, f: int) -> None:
    """Refuse a round of which *strategy* would make something else than it promises, or wait for more nodes.

    Raises:
        BadUpdate: there are too few updates, or none was made from any example.
    """
    n, kind = len(basis.updates), type(strategy).__name__
    if not any(update.examples for update in basis.updates):
        raise BadUpdate(f"the {n} updates were made from 0 examples, and Flower divides by that", fix="leave them out")
    if isinstance(strategy, FedAvg):
        needed = max(strategy.min_available_nodes, strategy.min_train_nodes, 1)
        if n < needed:
            raise BadUpdate(f"Flower's {kind} waits for {needed} nodes, and {n} updates are there", fix="wait for more")
    if not f:
        return
    if isinstance(strategy, FedTrimmedAvg) and int(strategy.beta * n) < f:
        raise BadUpdate(
            f"Flower's {kind} of {n} with beta {strategy.beta} drops {int(strategy.beta * n)} on each side, and {f} "
            "may be hostile",
            fix=f"set beta to {f / n:.3f} or a little more",
        )
    needed = 2 * f + 1 if isinstance(strategy, FedMedian | FedTrimmedAvg) else 2 * f + 3
    needed = 4 * f + 3 if isinstance(strategy, Bulyan) else needed
    if n < needed:
        raise BadUpdate(
            f"Flower's {kind} got {n} updates, of which {f} may be hostile, and needs {needed}",
            fix=f"wait for {needed - n} more, or set f to 0",
        )
    if isinstance(strategy, MultiKrum) and strategy.num_nodes_to_select > n - f:
        raise BadUpdate(
            f"Flower's {kind} selects {strategy.num_nodes_to_select} of {n}, of which {f} may be hostile",
            fix=f"set num_nodes_to_select to at most {n - f}",
        )
