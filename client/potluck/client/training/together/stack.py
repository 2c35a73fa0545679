"""The adapters of K clients, stacked: one row of numbers a client, and views of it for every module.

Clients of smaller rank than the largest have columns of B and rows of A that are zero.  Nothing moves them: the
gradient of a zero column of B passes through the zero row of A and the other way round, and AdamW leaves a zero with a
zero gradient where it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray

from potluck.aggregation import LowRank, Start
from potluck.aggregation.tensors import LORA_A, LORA_B, MOVING, Moves

Tail: TypeAlias = tuple[torch.Tensor, torch.Tensor]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What K clients add to one linear module: s·B·A each, and a frozen tail."""

    b: torch.Tensor | None
    """(K, d, r), or None where nothing but the tail is added."""
    a: torch.Tensor | None
    """(K, r, k)"""
    scale: torch.Tensor | None
    """(K, 1, 1)"""
    tail: Tail | None
    """(d, t) and (t, k) if it is the same for all, else (K, d, t) and (K, t, k); None for no tail."""

    @property
    def clients(self) -> int:
        """K; 1 where the same is added for all."""
        if self.b is not None:
            return len(self.b)
        return 1 if self.tail is None or shared_by_all(self.tail) else len(self.tail[0])

    def added(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the module's output for its input *x* (K, tokens, k): (K, tokens, d), or None."""
        total = None
        if self.b is not None and self.a is not None:
            x = x.to(self.a.dtype)
            total = (x @ self.a.mT * self.scale) @ self.b.mT
        if self.tail is not None:
            b, a = self.tail
            more = (x.to(a.dtype) @ a.mT) @ b.mT
            total = more if total is None else total + more
        return total


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """Where one trained factor is in a client's row: *shape* (d, r) or (r, k) of the largest rank, from *begin* on."""

    module: str
    suffix: str
    shape: tuple[int, int]
    begin: int

    @property
    def end(self) -> int:
        """One past its last number."""
        return self.begin + self.shape[0] * self.shape[1]

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the view (K, *shape) of *rows* (K, numbers)."""
        return rows[:, self.begin : self.end].unflatten(1, self.shape)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """K clients' adapters; *values* and *start* (K, numbers) are the trained factors, as they are and as they were."""

    slots: tuple[Slot, ...]
    values: torch.Tensor
    start: torch.Tensor
    scales: torch.Tensor
    """(K, 1, 1)"""
    ranks: tuple[int, ...]
    frozen: Mapping[str, torch.Tensor]
    """The factors that do not move, (K, d, r) or (K, r, k), by the name of their tensor."""
    tails: Mapping[str, Tail]

    def leaves(self, clients: int) -> list[torch.Tensor]:
        """Return the trained factors of the first *clients*, one tensor a slot, for which gradients can be asked."""
        return [slot.of(self.values[:clients]).detach().requires_grad_() for slot in self.slots]

    def parts(self, leaves: Sequence[torch.Tensor], clients: int) -> dict[str, Part]:
        """Return what the first *clients*, whose trained factors are *leaves*, add to every module."""
        factors = {name: value[:clients] for name, value in self.frozen.items()}
        factors |= {slot.module + slot.suffix: leaf for slot, leaf in zip(self.slots, leaves, strict=True)}
        return {
            module: Part(
                factors[module + LORA_B],
                factors[module + LORA_A],
                self.scales[:clients],
                _first(self.tails.get(module), clients),
            )
            for module in dict.fromkeys(slot.module for slot in self.slots)
        }

    def of(self, clients: Sequence[int]) -> Self:
        """Return a copy of the adapters of these *clients* alone, in this order."""
        tails = {
            name: tail if shared_by_all(tail) else (tail[0][clients], tail[1][clients])
            for name, tail in self.tails.items()
        }
        return replace(
            self,
            values=self.values[clients],
            start=self.start[clients],
            scales=self.scales[clients],
            ranks=tuple(self.ranks[client] for client in clients),
            frozen={name: value[clients] for name, value in self.frozen.items()},
            tails=tails,
        )

    def deltas(self, client: int) -> dict[str, NDArray[np.float32]]:
        """Return trained minus start of one client, as `potluck.aggregation.deltas` does."""
        pair = torch.stack((self.values[client], self.start[client])).float().cpu().numpy().astype(np.float64)
        change = (pair[0] - pair[1]).astype(np.float32)
        rank = self.ranks[client]
        result = {}
        for slot in self.slots:
            whole = change[slot.begin : slot.end].reshape(slot.shape)
            own = whole[:, :rank] if slot.suffix == LORA_B else whole[:rank]
            result[slot.module + slot.suffix] = np.ascontiguousarray(own)
        return dict(sorted(result.items()))


def stacked(starts: Sequence[Start], moves: Moves, dtype: torch.dtype, device: torch.device) -> Stack:
    """Return the adapters of clients that begin at *starts*, one each, of which *moves* are trained."""
    distinct = list({id(start): start for start in starts}.values())
    choice = torch.tensor([next(i for i, one in enumerate(distinct) if one is start) for start in starts])
    rank = max(_rank(start) for start in distinct)
    padded = {
        module + suffix: np.stack([_padded(start.trainable[module], suffix, rank) for start in distinct])
        for module in distinct[0].trainable
        for suffix in (LORA_A, LORA_B)
    }
    slots: list[Slot] = []
    for name, value in sorted(padded.items()):
        module, suffix = name[: -len(LORA_A)], name[-len(LORA_A) :]
        if suffix in MOVING[moves]:
            slots.append(Slot(module, suffix, value.shape[1:], slots[-1].end if slots else 0))
    rows = np.concatenate([padded[slot.module + slot.suffix].reshape(len(distinct), -1) for slot in slots], axis=1)
    start = torch.from_numpy(rows).to(device, dtype)[choice]
    moved = {slot.module + slot.suffix for slot in slots}
    scales = [next(iter(one.trainable.values())).scale for one in starts]
    return Stack(
        slots=tuple(slots),
        values=start.clone(),
        start=start,
        scales=torch.tensor(scales, dtype=dtype, device=device)[:, None, None],
        ranks=tuple(_rank(one) for one in starts),
        frozen={
            name: torch.from_numpy(value).to(device, dtype)[choice]
            for name, value in padded.items()
            if name not in moved
        },
        tails=_tails(distinct, choice, dtype, device),
    )


def shared(adapter: Mapping[str, LowRank], dtype: torch.dtype, device: torch.device) -> dict[str, Part]:
    """Return *adapter* as parts that only add, the same for everybody."""
    return {
        name: Part(None, None, None, (_tensor(term.b * term.scale, dtype, device), _tensor(term.a, dtype, device)))
        for name, term in adapter.items()
        if term.rank
    }


def _tails(starts: Sequence[Start], choice: torch.Tensor, dtype: torch.dtype, device: torch.device) -> dict[str, Tail]:
    """Return the frozen rests, shared if there is one start only, else one each and padded to the largest."""
    tails: dict[str, Tail] = {}
    for module in starts[0].tail:
        terms = [start.tail[module] for start in starts]
        most = max(term.rank for term in terms)
        if not most:
            continue
        b, a = (
            torch.from_numpy(np.stack([_padded(term, suffix, most) for term in terms])).to(device, dtype)
            for suffix in (LORA_B, LORA_A)
        )
        tails[module] = (b[0], a[0]) if len(starts) == 1 else (b[choice], a[choice])
    return tails


def _padded(term: LowRank, suffix: str, rank: int) -> NDArray[np.float32]:
    """Return one factor of *term* with zeros up to *rank*."""
    missing = rank - term.rank
    return np.pad(term.b, ((0, 0), (0, missing))) if suffix == LORA_B else np.pad(term.a, ((0, missing), (0, 0)))


def _rank(start: Start) -> int:
    return next(iter(start.trainable.values())).rank


def shared_by_all(tail: Tail) -> bool:
    """Whether *tail* is one for all clients, and not one each."""
    return len(tail[0].shape) == 2  # noqa: PLR2004


def _first(tail: Tail | None, clients: int) -> Tail | None:
    """Return *tail* of the first *clients*."""
    return tail if tail is None or shared_by_all(tail) else (tail[0][:clients], tail[1][:clients])


def _tensor(value: NDArray[np.generic], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value)).to(device, dtype)
