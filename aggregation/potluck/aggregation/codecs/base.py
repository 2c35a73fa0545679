"""What a codec is: frozen settings that turn flat values into a few arrays of known types and lengths, and back.

The lengths follow from the settings and the number of values alone, so a reader knows the size of everything before
it reads, expands or allocates any of it.  To add a codec: a class, a line in CODECS, vectors in
tests/vectors/aggregation_codecs.json, a row in docs/mathematics.md and one in docs/protocol.md.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import Array

Shape: TypeAlias = tuple[int, ...]
Stored: TypeAlias = NDArray[np.generic]
"""An array as it is stored: codes, scales, bits."""


class Part(NamedTuple):
    """One of the arrays that a tensor is stored as."""

    suffix: str
    """Of its name where it is a tensor of its own, as in a version 1 file; "" is the tensor itself."""
    dtype: str
    """Little-endian."""
    length: int


class Codec(Protocol):
    """A way to store the values of a tensor.  Its fields are whole numbers and travel in the metadata."""

    takes: ClassVar[str]
    """The type that values are rounded to before they are packed."""
    shows: ClassVar[bool]
    """Whether its parts are tensors that other readers of safetensors files make sense of."""
    forgets: ClassVar[bool]
    """Whether it leaves so much out that without error feedback it would never be learned."""

    def parts(self, values: int) -> tuple[Part, ...]:
        """Return what a tensor of so many values is stored as; allocate nothing."""

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        """Return the parts of *flat*, finite values of the type `takes`."""

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        """Return the values of parts that have the types and lengths that `parts` says.

        Raises:
            BadTensor: the parts say what pack never writes.
        """


def cast(name: str, tensor: Array, dtype: str) -> Array:
    """Return *tensor* as *dtype*, rounded to nearest even.  Raises BadTensor if it is not real or does not fit."""
    if tensor.dtype.kind != "f":
        raise BadTensor(f"{name} holds {tensor.dtype}", fix="give floating-point arrays")
    with np.errstate(over="ignore"):
        packed = tensor.astype(dtype)
    finite(name, packed, f"as {np.dtype(dtype)}")
    return packed


def finite(name: str, tensor: Array, when: str) -> None:
    """Raise BadTensor naming the first value that is NaN or infinite."""
    if not (good := np.isfinite(tensor)).all():
        raise BadTensor(f"{name} {when} is NaN or infinite at {int(np.flatnonzero(~good)[0])} of {tensor.size}")


def between(what: str, value: object, least: int, most: int, such_as: int) -> None:
    """Refuse a setting that is not a whole number from *least* to *most*.

    Raises:
        BadSetting: with the range.
    """
    if type(value) is not int or not least <= value <= most:
        raise BadSetting(f"{what} is {value}", fix=f"use {least} to {most}, such as {such_as}")
