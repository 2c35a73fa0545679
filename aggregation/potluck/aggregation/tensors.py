"""Adapters as named tensors, the form in which they are encoded, and a client's change as a delta."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np

from potluck.aggregation.errors import BadTensor, BadUpdate
from potluck.aggregation.lowrank import Array, LowRank
from potluck.aggregation.updates import Update

Adapter: TypeAlias = Mapping[str, LowRank]

LORA_A: Final = ".lora_A"
LORA_B: Final = ".lora_B"


def to_tensors(adapter: Adapter, *, fold_scale: bool = False) -> dict[str, Array]:
    """Return "{module}.lora_A" (r, k) and "{module}.lora_B" (d, r) for every module.

    The scale stays out, as in a PEFT folder where the config holds it: hand it to from_tensors.  *fold_scale*
    multiplies it into B instead, and from_tensors then takes 1.  A master and a momentum have scale 1 anyway.
    """
    tensors: dict[str, Array] = {}
    for name in sorted(adapter):
        term = adapter[name]
        tensors[name + LORA_A] = term.a
        tensors[name + LORA_B] = term.b * term.b.dtype.type(term.scale) if fold_scale else term.b
    return tensors


def from_tensors(tensors: Mapping[str, Array], scale: float = 1.0) -> dict[str, LowRank]:
    """Return the adapter whose tensors these are, every module at *scale*.

    Raises:
        BadTensor: a name that is neither A nor B, a factor without the other, or two that cannot be multiplied.
    """
    modules = sorted({name[: -len(LORA_A)] for name in tensors})
    expected = {name + suffix for name in modules for suffix in (LORA_A, LORA_B)}
    if odd := sorted(expected ^ set(tensors)):
        raise BadTensor(
            f"{len(odd)} names have no partner or do not end in {LORA_A} or {LORA_B}, such as {odd[0]!r}",
            fix="send both factors of every module",
        )
    return {name: LowRank(tensors[name + LORA_B], tensors[name + LORA_A], scale) for name in modules}


def deltas(trained: Adapter, start: Adapter) -> dict[str, Array]:
    """Return A − A₀ and B − B₀ as float32 tensors: what a client encodes and sends.

    Raises:
        BadUpdate: the two differ in modules, ranks, shapes or scales.
    """
    matching(trained, start)
    tensors: dict[str, Array] = {}
    for name in sorted(trained):
        for suffix, after, before in (
            (LORA_A, trained[name].a, start[name].a),
            (LORA_B, trained[name].b, start[name].b),
        ):
            tensors[name + suffix] = (after.astype(np.float64) - before.astype(np.float64)).astype(np.float32)
    return tensors


def from_deltas(
    changes: Mapping[str, Array], start: Adapter, *, examples: int, steps: int = 1, staleness: int = 0
) -> Update:
    """Return the update that decoded deltas and the start they were taken from stand for; trained is in float64.

    Raises:
        BadTensor: names that do not pair up, or factors that cannot be multiplied.
        BadUpdate: modules, ranks or shapes that are not the start's.
    """
    moved = from_tensors(changes)
    scaled = {name: LowRank(term.b, term.a, start[name].scale) for name, term in moved.items() if name in start}
    if set(scaled) != set(moved):
        raise BadUpdate(f"{len(moved) - len(scaled)} modules are not in the start")
    matching(scaled, start)
    trained = {
        name: LowRank(start[name].b.astype(np.float64) + term.b, start[name].a.astype(np.float64) + term.a, term.scale)
        for name, term in scaled.items()
    }
    return Update(trained, start, examples, steps, staleness)


def matching(trained: Adapter, start: Adapter) -> None:
    """Refuse two adapters whose factors cannot be subtracted one by one."""
    if set(trained) != set(start):
        raise BadUpdate(f"{len(set(trained) ^ set(start))} modules are in one of start and trained only")
    for name, term in trained.items():
        facts = [(one.shape, one.rank, one.scale) for one in (term, start[name])]
        if facts[0] != facts[1]:
            raise BadUpdate(
                f"{name} was trained as {facts[0][0]}, rank {facts[0][1]}, scale {facts[0][2]} "
                f"from a start of {facts[1][0]}, rank {facts[1][1]}, scale {facts[1][2]}",
                fix="train the factors that start returned",
            )
