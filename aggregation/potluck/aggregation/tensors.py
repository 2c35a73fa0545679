"""Adapters as named tensors, the form in which they are encoded, and a client's change as a delta."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import numpy as np

from potluck.aggregation.errors import BadTensor, BadUpdate
from potluck.aggregation.lowrank import Array, LowRank
from potluck.aggregation.rules.base import Trains
from potluck.aggregation.updates import Update

Adapter: TypeAlias = Mapping[str, LowRank]

Moves: TypeAlias = Literal["both", "b", "a"]
"""Which factors the clients of one version train; the other one is frozen, public, and does not travel."""

LORA_A: Final = ".lora_A"
LORA_B: Final = ".lora_B"
MOVING: Final[Mapping[Moves, tuple[str, ...]]] = MappingProxyType(
    {"both": (LORA_A, LORA_B), "b": (LORA_B,), "a": (LORA_A,)}
)
"""Ends of the names of the tensors in an update, by the factors that its clients train."""


def moves_at(trains: Trains, version: int) -> Moves:
    """Return which factors clients that start from *version* train, where the rule says *trains*.

    Alternating rules begin with B: at version 0 it is zero, and A alone would have nothing to learn from.  A core
    travels as the factors of its product.

    Source: Chen et al. 2024 (RoLoRA), arXiv:2409.02346.
    """
    if trains == "alternately":
        return "a" if version % 2 else "b"
    return "both" if trains == "core" else trains


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
    return {name: LowRank(tensors[name + LORA_B], tensors[name + LORA_A], scale) for name in modules_of(tensors)}


def deltas(trained: Adapter, start: Adapter, moves: Moves = "both") -> dict[str, Array]:
    """Return A − A₀ and B − B₀ as float32 tensors, or the one of them that *moves*: what a client encodes and sends.

    Raises:
        BadUpdate: the two differ in modules, ranks, shapes or scales, or a factor changed that does not move.
    """
    matching(trained, start)
    tensors: dict[str, Array] = {}
    for name in sorted(trained):
        for suffix, after, before in (
            (LORA_A, trained[name].a, start[name].a),
            (LORA_B, trained[name].b, start[name].b),
        ):
            if suffix in MOVING[moves]:
                tensors[name + suffix] = (after.astype(np.float64) - before.astype(np.float64)).astype(np.float32)
            elif not np.array_equal(after, before):
                raise BadUpdate(f"{name + suffix} changed, and only {moves} was to be trained", fix="freeze it")
    return tensors


def from_deltas(
    changes: Mapping[str, Array],
    start: Adapter,
    *,
    examples: int,
    steps: int = 1,
    staleness: int = 0,
    moves: Moves = "both",
) -> Update:
    """Return the update that decoded deltas and the start they were taken from stand for; trained is in float64.

    A factor that does not move is the start's.

    Raises:
        BadTensor: names that do not pair up, or are of a factor that does not move.
        BadUpdate: modules, ranks or shapes that are not the start's.
    """
    modules = modules_of(changes, moves)
    if odd := set(modules) ^ set(start):
        raise BadUpdate(f"{len(odd)} modules are in one of the start and the update only")
    trained = {
        name: changed(name, start[name], b=changes.get(name + LORA_B), a=changes.get(name + LORA_A)) for name in modules
    }
    return Update(trained, start, examples, steps, staleness)


def changed(name: str, start: LowRank, *, b: Array | None, a: Array | None) -> LowRank:
    """Return *start* with b and a added to its factors, in float64; None leaves a factor as it is.

    Raises:
        BadUpdate: a change has another shape than its factor.
    """
    for change, factor in ((b, start.b), (a, start.a)):
        if change is not None and change.shape != factor.shape:
            raise BadUpdate(
                f"{name} has a change of shape {change.shape} to a factor of shape {factor.shape}",
                fix="train the factors that start returned",
            )
    return LowRank(
        start.b if b is None else start.b.astype(np.float64) + b,
        start.a if a is None else start.a.astype(np.float64) + a,
        start.scale,
    )


def modules_of(names: Iterable[str], moves: Moves = "both") -> list[str]:
    """Return the modules, sorted, whose tensors of the factors that move are exactly *names*.

    Raises:
        BadTensor: a name that is neither A nor B, of a factor that does not move, or without its partner.
    """
    given = set(names)
    modules = sorted({name[: -len(LORA_A)] for name in given})
    expected = {name + suffix for name in modules for suffix in MOVING[moves]}
    if odd := sorted(expected ^ given):
        raise BadTensor(
            f"{len(odd)} names have no partner or do not end in {' or '.join(MOVING[moves])}, such as {odd[0]!r}",
            fix="send what was trained of every module, and nothing else",
        )
    return modules


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
