"""Who holds what: ways to give the pieces of a corpus to clients, none of whom is left without."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

import numpy as np

from potluck.simulations.worlds.chance import apportioned
from potluck.simulations.worlds.corpora import Piece
from potluck.simulations.worlds.errors import Impossible, TooLittleText
from potluck.simulations.worlds.tables import Partition

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@final
@dataclass(frozen=True, slots=True)
class Holding:
    """What one client holds; *name* says who it is."""

    name: str
    pieces: tuple[Piece, ...]


Cut = Callable[[Sequence[Piece], int, Partition, np.random.Generator], list[Holding]]


def natural(pieces: Sequence[Piece], clients: int, table: Partition, rng: np.random.Generator) -> list[Holding]:
    """Each client is an owner with all that is its own; *rng* draws which.  Fewer clients are the first of more.

    Raises:
        Impossible: the pieces have no owners.
        TooLittleText: not so many owners have *minimum* different samples.
    """
    owned: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        owned[piece.owner].append(piece)
    if "" in owned:
        raise Impossible(
            f"{len(owned[''])} of {len(pieces)} samples have no owner, so there are no natural clients",
            fix="set partition.kind to 'iid', 'label_skew' or 'quantity_skew', or text.owner to a column",
        )
    able = [owner for owner in sorted(owned) if len(_distinct(owned[owner])) >= table.minimum]
    if len(able) < clients:
        raise TooLittleText(
            f"{clients} clients, and {len(able)} of {len(owned)} owners have {table.minimum} samples or more",
            fix=f"simulate at most {len(able)} clients, or set partition.kind to 'iid' or 'quantity_skew'",
        )
    chosen = [able[i] for i in rng.permutation(len(able))[:clients]]
    return [Holding(owner, tuple(owned[owner])) for owner in chosen]


def iid(pieces: Sequence[Piece], clients: int, table: Partition, rng: np.random.Generator) -> list[Holding]:
    """Every client holds equally many, drawn evenly.

    Raises:
        TooLittleText: there are not *minimum* different samples for each.
    """
    shuffled = _shuffled(pieces, clients, table, rng)
    return _dealt(shuffled, apportioned(len(shuffled), [1.0] * clients))


def quantity_skew(pieces: Sequence[Piece], clients: int, table: Partition, rng: np.random.Generator) -> list[Holding]:
    """Every client holds *minimum*, and of the rest what shares drawn from Dir(alpha) say.

    Raises:
        TooLittleText: there are not *minimum* different samples for each.

    Source: Li, Diao, Chen and He 2022 (NIID-Bench, quantity skew), arXiv:2102.02079; the minimum is ours.
    """
    shuffled = _shuffled(pieces, clients, table, rng)
    rest = len(shuffled) - clients * table.minimum
    more = apportioned(rest, list(rng.dirichlet([table.alpha] * clients)))
    return _dealt(shuffled, [table.minimum + count for count in more])


def label_skew(pieces: Sequence[Piece], clients: int, table: Partition, rng: np.random.Generator) -> list[Holding]:
    """Every client holds equally many, of labels as a draw from Dir(alpha · p) says, p the labels' shares of all.

    A label that has run out is drawn no more: the last clients take what is left.

    Raises:
        Impossible: the pieces have fewer than two labels.
        TooLittleText: there are not *minimum* different samples for each.

    Source: Hsu, Qi and Brown 2019, section 3, arXiv:1909.06335.
    """
    by_label: dict[str, list[Piece]] = defaultdict(list)
    for piece in _shuffled(pieces, clients, table, rng):
        by_label[piece.label].append(piece)
    if len(by_label) < 2:  # noqa: PLR2004 - skew is between labels
        raise Impossible(
            f"the samples have {len(by_label)} label, and label skew needs two",
            fix="use another text.source or partition.kind, or set text.label to a column",
        )
    labels = sorted(by_label)
    left = np.array([len(by_label[label]) for label in labels])
    prior = left / left.sum()
    held = []
    for size in apportioned(int(left.sum()), [1.0] * clients):
        taken = _drawn(size, rng.dirichlet(table.alpha * prior), left, rng)
        left = left - taken
        held.append([by_label[label].pop() for label, n in zip(labels, taken, strict=True) for _ in range(n)])
    return [Holding(_name(i), tuple(mine)) for i, mine in enumerate(held)]


PARTITIONS: Final[Mapping[str, Cut]] = MappingProxyType(
    {"natural": natural, "iid": iid, "label_skew": label_skew, "quantity_skew": quantity_skew}
)


def _drawn(size: int, mix: np.ndarray, left: Ints, rng: np.random.Generator) -> Ints:
    """Return how many of each label are drawn by *mix*, *size* in all, no more than are *left*."""
    taken = np.zeros_like(left)
    while missing := size - int(taken.sum()):
        open_ = left > taken
        weights = np.where(open_, mix, 0.0)
        if weights.sum() < np.finfo(float).tiny:  # what this client would hold has run out
            weights = np.where(open_, left - taken, 0.0)
        taken = np.minimum(left, taken + rng.multinomial(missing, weights / weights.sum()))
    return taken


def _shuffled(pieces: Sequence[Piece], clients: int, table: Partition, rng: np.random.Generator) -> list[Piece]:
    """Return the pieces in an order that *rng* draws, each sample once: equal ones would fall to two clients."""
    once = _distinct(pieces)
    if len(once) < clients * table.minimum:
        raise TooLittleText(
            f"{clients} clients with {table.minimum} samples each, and there are {len(once)} different samples",
            fix=f"simulate at most {len(once) // table.minimum} clients, or name more text",
        )
    return [once[i] for i in rng.permutation(len(once))]


def _distinct(pieces: Sequence[Piece]) -> list[Piece]:
    return list({str(piece.row): piece for piece in reversed(pieces)}.values())[::-1]


def _dealt(pieces: Sequence[Piece], sizes: Sequence[int]) -> list[Holding]:
    ends = np.cumsum(sizes)
    return [
        Holding(_name(i), tuple(pieces[end - size : end]))
        for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]


def _name(i: int) -> str:
    return f"client-{i:05d}"
