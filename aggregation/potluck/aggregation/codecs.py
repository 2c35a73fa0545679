"""Tensors to bytes and back: fp64, fp32, fp16, int8.  Deltas and adapters travel and rest in these.

Every message is a safetensors file whose metadata names the codec and its settings, so it decodes without being told.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, final

import numpy as np

from potluck.aggregation.container import Limits, read, write
from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import Array, Floats
from potluck.aggregation.pipeline import named, settings_of, unknown

Shape: TypeAlias = tuple[int, ...]

VERSION: Final = "1"
SCALES: Final = "#scales"
"""Suffix of the tensor that holds the block scales of the tensor before the suffix."""
LEVELS: Final = 127
MAX_DIGITS: Final = 9
MIN_BLOCK: Final = 8
MAX_BLOCK: Final = 65536


class Codec(Protocol):
    """A way to store tensors.  Its fields are whole numbers and travel in the metadata."""

    def pack(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return what to store.  Raises BadTensor if a value does not fit."""

    def shapes(self, stored: Mapping[str, Array]) -> dict[str, Shape]:
        """Return the shape of every tensor that unpack would return; allocate nothing.  Raises BadTensor."""

    def unpack(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensors.  Raises BadTensor."""


@final
@dataclass(frozen=True, slots=True)
class Fp64:
    """Float64 as it is, for the coordinator's own checkpoints.  The only one that is read as float64."""

    def pack(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return cast(tensors, "<f8")

    def shapes(self, stored: Mapping[str, Array]) -> dict[str, Shape]:
        return shapes_of(stored, "<f8")

    def unpack(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        return {name: tensor.astype(np.float64) for name, tensor in stored.items()}


@final
@dataclass(frozen=True, slots=True)
class Fp32:
    """Float32: what published adapters use, and what any other safetensors reader opens."""

    def pack(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return cast(tensors, "<f4")

    def shapes(self, stored: Mapping[str, Array]) -> dict[str, Shape]:
        return shapes_of(stored, "<f4")

    def unpack(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        return {name: tensor.astype(np.float32) for name, tensor in stored.items()}


@final
@dataclass(frozen=True, slots=True)
class Fp16:
    """IEEE half, rounded to nearest even; values over 65504 are refused, not clipped."""

    def pack(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return cast(tensors, "<f2")

    def shapes(self, stored: Mapping[str, Array]) -> dict[str, Shape]:
        return shapes_of(stored, "<f2")

    def unpack(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        return {name: tensor.astype(np.float32) for name, tensor in stored.items()}


@final
@dataclass(frozen=True, slots=True)
class Int8:
    """q = round(127·x / m) with m the largest |x| of each run of *block* flat values; read back as q·m / 127.

    The error of a value is at most m / 254, half a level.  The m travel as float32 beside the codes.

    Source: Dettmers et al. 2022, §2.1 (block-wise absmax), arXiv:2110.02861.

    Raises:
        BadSetting: block is not between 8 and 65536.
    """

    block: int = 256

    def __post_init__(self) -> None:
        if type(self.block) is not int or not MIN_BLOCK <= self.block <= MAX_BLOCK:
            raise BadSetting(f"int8 block is {self.block}", fix=f"use {MIN_BLOCK} to {MAX_BLOCK}, such as 256")

    def pack(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        stored: dict[str, Array] = {}
        for name, tensor in cast(tensors, "<f4").items():
            if name.endswith(SCALES):
                raise BadTensor(f"int8 cannot store {name}: {SCALES} marks its own scales", fix="use another name")
            blocks = in_blocks(tensor, self.block)
            largest = np.abs(blocks).max(axis=1, initial=0.0)
            codes = np.rint(LEVELS * blocks / np.where(largest > 0, largest, 1.0)[:, None])
            stored[name] = codes.reshape(-1)[: tensor.size].astype(np.int8).reshape(tensor.shape)
            stored[name + SCALES] = largest.astype("<f4")
        return stored

    def shapes(self, stored: Mapping[str, Array]) -> dict[str, Shape]:
        shapes = {name: tensor.shape for name, tensor in stored.items() if not name.endswith(SCALES)}
        for name, shape in shapes.items():
            scales, blocks = stored.get(name + SCALES), -(-math.prod(shape) // self.block)
            if scales is None or scales.dtype != np.float32 or scales.shape != (blocks,):
                raise BadTensor(f"{name}: int8 needs {blocks} float32 scales")
            if stored[name].dtype != np.int8:
                raise BadTensor(f"{name} is {stored[name].dtype} where the codec says int8")
        if len(stored) != 2 * len(shapes):
            raise BadTensor(f"{len(stored) - 2 * len(shapes)} scales belong to no tensor")
        return shapes

    def unpack(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        tensors: dict[str, Array] = {}
        for name, shape in self.shapes(stored).items():
            codes, largest = stored[name], stored[name + SCALES]
            if codes.size and (codes.min() < -LEVELS or not (np.isfinite(largest) & (largest >= 0)).all()):
                raise BadTensor(f"{name}: a code of -128, or a scale that is negative or not finite")
            values = in_blocks(codes, self.block) * (largest.astype(np.float64) / LEVELS)[:, None]
            tensors[name] = values.reshape(-1)[: codes.size].astype(np.float32).reshape(shape)
        return tensors


CODECS: Final[Mapping[str, Callable[..., Codec]]] = MappingProxyType(
    {"fp64": Fp64, "fp32": Fp32, "fp16": Fp16, "int8": Int8}
)


def encode(tensors: Mapping[str, Array], codec: str = "int8", **settings: int) -> bytes:
    """Return *tensors* as bytes: the same bytes for the same content, whatever the order of names.

    Raises:
        UnknownName: no such codec, or it has no such setting.
        BadSetting: a setting out of range.
        BadTensor: a value is not finite, or does not fit the codec; or a name cannot be stored.
    """
    kind = named("codec", codec, CODECS)
    for name in settings:
        if name not in settings_of(kind):
            raise unknown(f"setting of {codec}", name, set(settings_of(kind)))
    coder = kind(**settings)
    facts = {name: str(getattr(coder, name)) for name in settings_of(kind)}
    return write(coder.pack(tensors), {"codec": codec, "codec_version": VERSION, **facts})


def decode(data: bytes, *, limits: Limits) -> dict[str, Array]:
    """Return the tensors in *data*, trusting none of it: writable float32 arrays, float64 for fp64.

    A file without a codec in its metadata, as other programs write them, is read as fp32.  Sizes are checked first:
    nothing is allocated for a message that is over *limits*.

    Raises:
        BadTensor: over a limit, not a safetensors file as `encode` writes it, an unknown codec, or NaN or infinity.
    """
    stored, facts = read(data, limits)
    coder = codec_of(facts)
    shapes = coder.shapes(stored)
    values = sum(math.prod(shape) for shape in shapes.values())
    if len(shapes) > limits.max_tensors or values > limits.max_values:
        raise BadTensor(
            f"{len(shapes)} tensors of {values} values; the limits are {limits.max_tensors} and {limits.max_values}",
            fix="send a smaller update",
        )
    tensors = coder.unpack(stored)
    finite(tensors, "after decoding")
    return tensors


def codec_of(facts: Mapping[str, str]) -> Codec:
    """Return the codec that a message's metadata names.

    Raises:
        BadTensor: it is unknown, of another version, or its settings are not numbers in range.
    """
    name = facts.get("codec")
    if name is None:
        return Fp32()
    if name not in CODECS or facts.get("codec_version") != VERSION:
        raise BadTensor("the message names a codec or a version of one that we do not know", fix="update potluck")
    settings = {}
    for setting in settings_of(CODECS[name]):
        text = facts.get(setting, "")
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise BadTensor(f"the message says {name} without a number for {setting}")
        settings[setting] = int(text)
    try:
        return CODECS[name](**settings)
    except BadSetting as error:
        raise BadTensor(str(error)) from None


def cast(tensors: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Return *tensors* as *dtype*, rounded to nearest even.  Raises BadTensor if one is not real or does not fit."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            raise BadTensor(f"{name} holds {tensor.dtype}", fix="give floating-point arrays")
    with np.errstate(over="ignore"):
        packed = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    finite(packed, f"as {np.dtype(dtype)}")
    return packed


def shapes_of(stored: Mapping[str, Array], dtype: str) -> dict[str, Shape]:
    """Return the shapes of *stored*, all of which must have *dtype*."""
    for name, tensor in stored.items():
        if tensor.dtype != np.dtype(dtype):
            raise BadTensor(f"{name} is {tensor.dtype} where the codec says {np.dtype(dtype)}")
    return {name: tensor.shape for name, tensor in stored.items()}


def finite(tensors: Mapping[str, Array], when: str) -> None:
    """Raise BadTensor naming the first value that is NaN or infinite."""
    for name, tensor in tensors.items():
        if not (good := np.isfinite(tensor)).all():
            raise BadTensor(f"{name} {when} is NaN or infinite at {int(np.flatnonzero(~good)[0])} of {tensor.size}")


def in_blocks(tensor: Array, block: int) -> Floats:
    """Return the flat values of *tensor* as float64 rows of *block*, the last one filled up with zeros."""
    rows = -(-tensor.size // block)
    padded = np.zeros(rows * block)
    padded[: tensor.size] = tensor.reshape(-1)
    return padded.reshape(rows, block)
