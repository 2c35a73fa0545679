"""The tensors of an update: what must be in it, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation import Limits, Opened, opened
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.tensors import LORA_A, LORA_B, MOVING, Moves
from potluck.wire.recipe import Recipe

_FIX = "train with the base model, rank and targets of the recipe"
_SHOWN = 3


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """Name and shape of every tensor, sorted by name.  An update matches it exactly or is refused."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of_update(cls, modules: Mapping[str, tuple[int, int]], rank: int, moves: Moves = "both") -> Self:
        """Return the manifest of an update: for each module's (d, k), lora_A is (rank, k) and lora_B is (d, rank).

        Of the two, only what *moves* is in it: a frozen factor does not travel.
        """
        entries: dict[str, tuple[int, ...]] = {}
        for name, (d, k) in modules.items():
            shapes = {LORA_A: (rank, k), LORA_B: (d, rank)}
            entries |= {name + end: shapes[end] for end in MOVING[moves]}
        return cls(tuple(sorted(entries.items())))

    @classmethod
    def of(cls, recipe: Recipe, version: int) -> Self:
        """Return the manifest of an update that starts from *version* of the run."""
        return cls.of_update(recipe.modules(), recipe.adapter.rank, recipe.moves(version))

    @property
    def values(self) -> int:
        """How many numbers the tensors hold."""
        return sum(int(np.prod(shape)) for _, shape in self.entries)

    def digest(self) -> bytes:
        """SHA-256 of the entries as JSON."""
        return hashlib.sha256(json.dumps(self.entries, separators=(",", ":")).encode()).digest()

    def limits(self, max_bytes: int) -> Limits:
        """Return what a decoder may allocate: no more than this manifest needs, scales of a codec included."""
        return Limits(max_bytes=max_bytes, max_tensors=2 * len(self.entries), max_values=2 * self.values)

    def check(self, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        """Return quietly when *tensors* have exactly these names and shapes.

        Raises:
            BadTensor: the exact difference: missing, unexpected, wrong shape.
        """
        self.check_shapes({name: tensor.shape for name, tensor in tensors.items()})

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Return quietly when tensors of these *shapes* are what is needed; raises as `check` does."""
        wanted = dict(self.entries)
        missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
        if missing or extra:
            raise BadTensor(
                f"{len(missing)} tensors are missing{_some(missing)} and {len(extra)} are unexpected{_some(extra)}",
                fix=_FIX,
            )
        for name, shape in self.entries:
            if shapes[name] != shape:
                raise BadTensor(f"{name} has shape {shapes[name]}, the recipe's is {shape}", fix=_FIX)


def decode_update(data: bytes, manifest: Manifest) -> dict[str, NDArray[np.floating]]:
    """Decode an update off the wire, trusting none of it; sizes are checked before anything is allocated.

    Raises:
        BadTensor: it is not a whole file of a known codec, differs from *manifest*, or holds NaN or infinity.
    """
    message = open_update(data, manifest)
    return {name: message.tensor(name) for name in message.shapes}


def open_update(data: bytes | memoryview, manifest: Manifest) -> Opened:
    """Open an update off the wire, or off the disk, to read it tensor by tensor: names and shapes are the manifest's.

    Raises:
        BadTensor: it is not a whole file of a known codec, or differs from *manifest*.  Values are checked as they
            are read.
    """
    message = opened(data, limits=manifest.limits(len(data)))
    manifest.check_shapes(message.shapes)
    return message


def _some(names: list[str]) -> str:
    """Return the first few of *names* in brackets, or nothing."""
    shown = ", ".join(name[:80] for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f" ({shown})" if names else ""
