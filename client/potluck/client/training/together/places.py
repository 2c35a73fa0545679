"""Which places of a batch have to be computed: those that a prediction looks at, and no others.

A place after the last label of its sequence changes nothing, since nobody looks ahead: padding, and the last token of
every sample, which is predicted and predicts nothing.  What the last layer makes of a place is asked for only where
there is a label: of a prompt it has to give keys and values, and no more.  And attention, for which sequences have to
stand side by side, is computed for those of like length together.
"""

from dataclasses import dataclass
from typing import Final, Self, final

import torch

from potluck.client.training.batches import IGNORED, Batch

ALIKE: Final = 0.75
"""Sequences stand in one grid with a longer one of which they have this share at the least."""
SHORT: Final = 16
"""And sequences up to this length always do: another grid would cost more than the padding."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The n places of a batch that count, row after row and equally many for each client, and m of them with labels.

    Where clients have unlike numbers of them, some places that do not count fill up.
    """

    ids: torch.Tensor
    """(n,)"""
    positions: torch.Tensor
    """(n,), from 0 in every sequence."""
    asked: torch.Tensor | None
    """(m,) which of the n have labels; None: all."""
    labels: torch.Tensor
    """(m,), IGNORED for those that fill up."""
    rows: torch.Tensor
    """(m,) the row of the batch that each label is in."""
    grids: "Grids"

    @classmethod
    def of(cls, batch: Batch, clients: int) -> Self:
        """Return those of *batch*, whose rows belong to *clients* in turn."""
        kept = _even(_counting(batch).view(clients, -1))
        ids, positions, labels = (each.flatten()[kept] for each in (batch.ids, batch.positions, batch.labels))
        asked = _even((labels != IGNORED).view(clients, -1))
        return cls(
            ids=ids,
            positions=positions,
            asked=None if len(asked) == len(kept) else asked,
            labels=labels[asked],
            rows=kept[asked] // batch.ids.shape[1],
            grids=Grids.of(positions),
        )

    def at_labels(self, x: torch.Tensor) -> torch.Tensor:
        """Return the m places with labels of *x* (n, …)."""
        return x if self.asked is None else x.index_select(0, self.asked)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """Every sequence a row of its own, in one of several grids; behind the shorter ones stand places of others.

    Nobody sees those, since nobody looks ahead, and what they see is not gathered.
    """

    shapes: tuple[tuple[int, int], ...]
    """(rows, length) of each grid."""
    taken: torch.Tensor | None
    """(cells of all grids,) which place stands there; None: all places in one grid, in their order."""
    cell: torch.Tensor
    """(n,) where each place stands."""

    @classmethod
    def of(cls, positions: torch.Tensor) -> Self:
        """Return those of places whose *positions* (n,) count from 0 in every sequence."""
        begins = (positions == 0).nonzero()[:, 0]
        lengths = torch.diff(begins, append=begins.new_tensor([len(positions)]))
        sizes: list[int] = lengths.tolist()
        if len(set(sizes)) == 1:
            return cls(((len(sizes), sizes[0]),), None, torch.arange(len(positions), device=positions.device))
        order = lengths.argsort(descending=True, stable=True)
        shapes: list[tuple[int, int]] = []
        for i in order.tolist():
            if not shapes or sizes[i] < ALIKE * shapes[-1][1] > SHORT:
                shapes.append((0, sizes[i]))
            shapes[-1] = (shapes[-1][0] + 1, shapes[-1][1])
        taken, cell, done, sequences = (
            [],
            torch.empty_like(positions),
            0,
            iter(order.split([rows for rows, _ in shapes])),
        )
        for rows, length in shapes:
            mine = next(sequences)
            column = torch.arange(length, device=positions.device)
            place = begins[mine, None] + column
            own = column < lengths[mine, None]
            cell[place[own]] = (done + torch.arange(rows * length, device=positions.device).view(rows, length))[own]
            taken.append(place.where(own, begins[mine, None]).flatten())
            done += rows * length
        return cls(tuple(shapes), torch.cat(taken), cell)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """Return the cells (c, …) of places *x* (n, …)."""
        return x.view(x.shape) if self.taken is None else x.index_select(0, self.taken)

    def gathered(self, cells: torch.Tensor) -> torch.Tensor:
        """Return the places (n, …) of *cells* (c, …)."""
        return cells.view(cells.shape) if self.taken is None else cells.index_select(0, self.cell)

    def back(self, slope: torch.Tensor) -> torch.Tensor:
        """Return the gradient to all cells of that to the places, *slope* (n, …)."""
        if self.taken is None:
            return slope
        return slope.new_zeros(len(self.taken), *slope.shape[1:]).index_copy_(0, self.cell, slope)


def _counting(batch: Batch) -> torch.Tensor:
    """Return which places have a label of their own sequence at or behind them, (rows · length,) bool."""
    sequence = (batch.positions == 0).flatten().cumsum(0) - 1  # every row begins with one
    place = torch.arange(batch.labels.numel(), device=batch.labels.device)
    learned = (batch.labels != IGNORED).flatten()
    last = torch.full((int(sequence[-1]) + 1,), -1, device=place.device)
    last = last.scatter_reduce(0, sequence[learned], place[learned], "amax")
    return place <= last[sequence]


def _even(wanted: torch.Tensor) -> torch.Tensor:
    """Return where *wanted* (clients, places) is true, flat and in order; who has fewer is filled up with others."""
    most = max(1, int(wanted.sum(1).amax()))
    first = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most].sort(1).values
    begins = torch.arange(len(wanted), device=wanted.device)[:, None] * wanted.shape[1]
    return (first + begins).flatten()
