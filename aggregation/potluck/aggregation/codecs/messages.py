"""Messages: named tensors as one run of bytes, written by `encode`, read whole by `decode` or in parts by `opened`.

Version 1 is a safetensors file whose tensors are the codec's parts, so that other programs open it.  Version 2 holds
one record of bytes a tensor, each compressed by itself, so that a reader expands one tensor without the others.
docs/protocol.md describes both for other programs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from potluck.aggregation.codecs.base import Codec, Part, Shape, Stored, cast, finite
from potluck.aggregation.codecs.lossless import expanded, squeezed
from potluck.aggregation.codecs.registry import codec_of, facts_of, make_codec
from potluck.aggregation.container import MAX_DIMS, MAX_EXTENT, Limits, read, write
from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import Array

OPEN: Final = "1"
RECORDS: Final = "2"
PLAIN_STAGE: Final = 0
ZSTD_STAGE: Final = 1
FIXED: Final = 2
"""Bytes of a record before the sides of its shape: the stage, and how many sides."""
SIDE: Final = 4
MAX_SIDE: Final = (1 << 32) - 1


@final
@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A message whose header, names, shapes and sizes were checked; its values are checked as they are read."""

    facts: Mapping[str, str]
    """"codec" and the codec's settings, as in the metadata; a file of another program counts as fp32."""
    shapes: Mapping[str, Shape]
    """Of every tensor, by name."""
    _codec: Codec
    _stored: Mapping[str, Stored]

    def tensor(self, name: str) -> Array:
        """Return the tensor *name*: a writable float32 array, float64 for fp64.

        Raises:
            KeyError: there is none.
            BadTensor: it cannot be expanded, is not what its codec writes, or holds NaN or infinity.
        """
        shape = self.shapes[name]
        values = math.prod(shape)
        parts = self._codec.parts(values)
        if self.facts["codec_version"] == OPEN:
            stored: Sequence[Stored] = [self._stored[name + part.suffix].reshape(-1) for part in parts]
        else:
            stored = apart(name, self._stored[name], len(shape), parts)
        try:
            flat = self._codec.unpack(stored, values)
        except BadTensor as error:
            raise BadTensor(f"{name}: {error}") from None
        finite(name, flat, "after decoding")
        return flat.reshape(shape)


def encode(tensors: Mapping[str, Array], codec: str = "int8", *, lossless: bool = False, **settings: int) -> bytes:
    """Return *tensors* as bytes: the same bytes for the same content, whatever the order of names.

    With *lossless* every tensor, and the header, is compressed by zstandard where that is smaller.  Its bytes may
    then differ between versions of zstandard, and never in what they decode to.

    Raises:
        UnknownName: no such codec, or it has no such setting.
        BadSetting: a setting out of range.
        BadTensor: a value is not finite, or does not fit the codec; or a name cannot be stored.
    """
    coder = make_codec(codec, **settings)
    shows = coder.shows and not lossless
    stored: dict[str, Stored] = {}
    for name in sorted(tensors):
        arrays = packed_parts(name, tensors[name], coder)
        shape, parts = tensors[name].shape, coder.parts(tensors[name].size)
        if not shows:
            stored[name] = record(name, shape, arrays, lossless=lossless)
            continue
        for part, array in zip(parts, arrays, strict=True):
            if part.suffix and name.endswith(part.suffix):
                raise BadTensor(
                    f"{codec} cannot store {name}: {part.suffix} marks its own {part.suffix[1:]}",
                    fix="use another name",
                )
            stored[name + part.suffix] = array if part.suffix else array.reshape(shape)
    facts = facts_of(codec, coder) | {"codec_version": OPEN if shows else RECORDS}
    return write(stored, facts, lossless=lossless)


def decode(data: bytes | memoryview, *, limits: Limits) -> dict[str, Array]:
    """Return the tensors in *data*, trusting none of it: writable float32 arrays, float64 for fp64.

    A file without a codec in its metadata, as other programs write them, is read as fp32.  Sizes are checked first:
    nothing is allocated for a message that is over *limits*.

    Raises:
        BadTensor: over a limit, not a message as `encode` writes it, an unknown codec, or NaN or infinity.
    """
    message = opened(data, limits=limits)
    return {name: message.tensor(name) for name in message.shapes}


def opened(data: bytes | memoryview, *, limits: Limits) -> Opened:
    """Return the message in *data* with its whole header checked and no tensor read; see `decode`.

    *data* may be a memory-mapped file: only the tensors that are asked for are touched.

    Raises:
        BadTensor: over a limit, not a message as `encode` writes it, or an unknown codec.
    """
    stored, facts = read(data, limits)
    facts = facts if "codec" in facts else {"codec": "fp32", "codec_version": OPEN}
    coder = codec_of(facts)
    shows = facts.get("codec_version") == OPEN and coder.shows
    if not shows and facts.get("codec_version") != RECORDS:
        raise BadTensor("the message has a version that we do not know", fix="update potluck")
    shapes = open_shapes(stored, coder) if shows else record_shapes(stored)
    values = sum(math.prod(shape) for shape in shapes.values())
    if len(shapes) > limits.max_tensors or values > limits.max_values:
        raise BadTensor(
            f"{len(shapes)} tensors of {values} values; the limits are {limits.max_tensors} and {limits.max_values}",
            fix="send a smaller update",
        )
    return Opened(facts, shapes, coder, stored)


def packed_parts(name: str, tensor: Array, coder: Codec) -> tuple[Stored, ...]:
    """Return the parts of one tensor; what does not fit is told with its name."""
    flat = cast(name, tensor, coder.takes).reshape(-1)
    try:
        return coder.pack(flat)
    except BadTensor as error:
        raise BadTensor(f"{name}: {error}") from None


def open_shapes(stored: Mapping[str, Stored], coder: Codec) -> dict[str, Shape]:
    """Return the shapes of the tensors in a version 1 file whose parts fit together."""
    suffixes = [part.suffix for part in coder.parts(0) if part.suffix]
    shapes = {name: array.shape for name, array in stored.items() if not name.endswith(tuple(suffixes))}
    for name, shape in shapes.items():
        for part in coder.parts(math.prod(shape)):
            array = stored.get(name + part.suffix)
            wanted = (part.length,) if part.suffix else shape
            if array is None or array.dtype != np.dtype(part.dtype) or array.shape != wanted:
                raise BadTensor(f"{name + part.suffix}: {wanted} of {part.dtype} are needed")
    if extra := len(stored) - (1 + len(suffixes)) * len(shapes):
        raise BadTensor(f"{extra} parts belong to no tensor")
    return shapes


def record(name: str, shape: Shape, arrays: Sequence[Stored], *, lossless: bool) -> Stored:
    """Return one tensor as bytes: stage, number of sides, sides, then the parts byte plane by byte plane."""
    if len(shape) > MAX_DIMS or max(shape, default=0) > MAX_SIDE:
        raise BadTensor(f"{name} has shape {shape}", fix=f"use up to {MAX_DIMS} sides below 2^32")
    content = b"".join(planes(array) for array in arrays)
    frame = squeezed(content) if lossless else content
    smaller = len(frame) < len(content)
    sides = b"".join(side.to_bytes(SIDE, "little") for side in shape)
    start = bytes([ZSTD_STAGE if smaller else PLAIN_STAGE, len(shape)]) + sides
    return np.frombuffer(start + (frame if smaller else content), np.uint8)


def record_shapes(stored: Mapping[str, Stored]) -> dict[str, Shape]:
    """Return the shapes that the records of a version 2 file state."""
    shapes: dict[str, Shape] = {}
    for name, array in stored.items():
        if array.dtype != np.uint8 or array.ndim != 1 or array.size < FIXED:
            raise BadTensor(f"{name} is not a record of bytes")
        stage, dims = int(array[0]), int(array[1])
        if stage > ZSTD_STAGE or dims > MAX_DIMS or array.size < FIXED + SIDE * dims:
            raise BadTensor(f"{name}: stage {stage}, {dims} sides, {array.size} bytes")
        sides = np.frombuffer(array[FIXED : FIXED + SIDE * dims].tobytes(), "<u4")
        shapes[name] = tuple(int(side) for side in sides)
        if math.prod(max(1, side) for side in shapes[name]) > MAX_EXTENT:
            raise BadTensor(f"{name}: a side of its shape is over {MAX_EXTENT}")
    return shapes


def apart(name: str, array: Stored, dims: int, parts: Sequence[Part]) -> list[Stored]:
    """Return the parts in the record *array*, whose sizes follow from the shape: nothing larger is ever expanded.

    Raises:
        BadTensor: it holds more or fewer bytes.
    """
    sizes = [part.length * np.dtype(part.dtype).itemsize for part in parts]
    content = array[FIXED + SIDE * dims :].tobytes()
    if array[0] == ZSTD_STAGE:
        try:
            content = expanded(content, sum(sizes))
        except BadTensor as error:
            raise BadTensor(f"{name}: {error}") from None
    if len(content) != sum(sizes):
        raise BadTensor(f"{name} has {len(content)} bytes where {sum(sizes)} are needed")
    found, begin = [], 0
    for part, size in zip(parts, sizes, strict=True):
        found.append(joined(content[begin : begin + size], part.dtype))
        begin += size
    return found


def planes(array: Stored) -> bytes:
    """Return the lowest bytes of all numbers in *array*, then the next ones, and so on: like stands beside like."""
    width = array.itemsize
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).view(np.uint8)
    return flat.reshape(-1, width).T.tobytes()


def joined(content: bytes, dtype: str) -> Stored:
    """Return the numbers whose byte planes *content* is."""
    width = np.dtype(dtype).itemsize
    flat = np.frombuffer(content, np.uint8).reshape(width, -1).T
    return np.ascontiguousarray(flat).view(dtype).reshape(-1)
