"""The safetensors file format, written and read here because a stranger's bytes need more checks than its library has.

Eight bytes, little-endian: the length of the header.  The header: a JSON object from tensor name to dtype, shape and
the two ends of its bytes, and "__metadata__" to strings.  Then the bytes, without holes.  Written in one way only
(sorted, padded to 8 bytes), so equal tensors are equal bytes and have equal digests.

One thing is ours: a header may be compressed.  Then the first four bytes are its length as it is stored, and the next
four, which are zero in every safetensors file, its length as JSON.  For a thousand small tensors the names would be
most of a message.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.codecs.lossless import expanded, squeezed
from potluck.aggregation.errors import BadTensor

Stored: TypeAlias = NDArray[np.generic]
"""An array of one of DTYPES."""

LENGTH_BYTES: Final = 8
HALF_BYTES: Final = 4
MAX_HEADER_BYTES: Final = 1 << 20
MAX_DIMS: Final = 8
MAX_NAME: Final = 512
MAX_EXTENT: Final = 1 << 40
METADATA: Final = "__metadata__"
DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "|i1", "U8": "|u1"}
)
NAMES: Final[Mapping[str, str]] = MappingProxyType({stored: name for name, stored in DTYPES.items()})


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts from a stranger; checked before anything is allocated."""

    max_bytes: int = 256 << 20
    """Length of the whole message."""
    max_tensors: int = 4096
    """Tensors after decoding."""
    max_values: int = 1 << 26
    """Values of all tensors together, after decoding."""


def write(tensors: Mapping[str, Stored], metadata: Mapping[str, str], *, lossless: bool = False) -> bytes:
    """Return *tensors* as one safetensors file; the same bytes for the same content, on every machine.

    *lossless*: with a compressed header, where that is shorter; no other program opens that.

    Raises:
        BadTensor: a dtype or name that the format or our reader does not take.
    """
    header: dict[str, object] = {METADATA: dict(metadata)}
    body: list[bytes] = []
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        stored = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), copy=False)
        if stored.dtype.str not in NAMES or not 0 < len(name) <= MAX_NAME or not name.isprintable() or name == METADATA:
            raise BadTensor(f"cannot store a tensor of type {stored.dtype} under the name {name!r}")
        begin, end = end, end + stored.nbytes
        header[name] = {
            "dtype": NAMES[stored.dtype.str],
            "shape": list(stored.shape),
            "data_offsets": [begin, end],
        }
        body.append(stored.tobytes())
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    short = squeezed(text) if lossless else text
    if len(short) < len(text):
        start = len(short).to_bytes(HALF_BYTES, "little") + len(text).to_bytes(HALF_BYTES, "little")
        return b"".join([start, short, *body])
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, *body])


def read(data: bytes | memoryview, limits: Limits) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors of a safetensors file, as read-only views of *data*, and its metadata.  Trusts none of it.

    Raises:
        BadTensor: the file is over a limit, or is anything but what `write` could have written: repeated keys,
            overlaps, holes, bytes left over, shapes that disagree with the bytes, dtypes that we do not use.
    """
    header, body = split(data, limits)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadTensor("the metadata is not a table of strings")
    found = [parsed(name, entry, len(body)) for name, entry in header.items()]
    end = 0
    tensors: dict[str, Stored] = {}
    for name, dtype, shape, (begin, stop) in sorted(found, key=lambda item: item[3]):
        if begin != end:
            raise BadTensor(f"{name} begins at byte {begin}, and the one before it ends at {end}")
        tensors[name] = np.frombuffer(body[begin:stop], DTYPES[dtype]).reshape(shape)
        end = stop
    if end != len(body):
        raise BadTensor(f"{len(body) - end} bytes follow the last tensor")
    return tensors, metadata


def split(data: bytes | memoryview, limits: Limits) -> tuple[dict[str, Any], memoryview]:
    """Return the parsed header and the bytes after it."""
    view = memoryview(data).toreadonly()
    if len(view) > limits.max_bytes:
        raise BadTensor(f"{len(view)} bytes; the limit is {limits.max_bytes}", fix="send a smaller update")
    length, long = (int.from_bytes(view[at : at + HALF_BYTES], "little") for at in (0, HALF_BYTES))
    if len(view) < LENGTH_BYTES or length > len(view) - LENGTH_BYTES or max(length, long) > MAX_HEADER_BYTES:
        raise BadTensor(f"{len(view)} bytes cannot hold a header of {length}; the limit is {MAX_HEADER_BYTES}")
    text = bytes(view[LENGTH_BYTES : LENGTH_BYTES + length])
    if long:
        text = expanded(text, long)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=without_repeats, parse_constant=refused)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise BadTensor(f"the header of {length} bytes is not JSON: {type(error).__name__}") from None
    if not isinstance(header, dict) or not text.startswith(b"{"):
        raise BadTensor("the header is not a table")
    return header, view[LENGTH_BYTES + length :]


def parsed(name: str, entry: object, total: int) -> tuple[str, str, tuple[int, ...], tuple[int, int]]:
    """Return name, dtype, shape and ends of one *entry* of the header, which must fit *total* bytes."""
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise BadTensor(f"a tensor has a name of {len(name)} characters that cannot be printed or are too many")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadTensor(f"{name}: an entry is a table of dtype, shape and data_offsets")
    dtype, shape, ends = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadTensor(f"{name}: the type is none of {', '.join(DTYPES)}")
    if not counts(shape, MAX_DIMS) or not counts(ends, 2) or len(ends) != 2:  # noqa: PLR2004 - begin and end
        raise BadTensor(f"{name}: the shape or the offsets are not a few whole numbers of at least 0")
    begin, end = ends
    needs = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if not begin <= end <= total or end - begin != needs:
        raise BadTensor(f"{name}: its shape and its offsets do not agree, or pass the end of {total} bytes")
    if math.prod(max(1, side) for side in shape) > MAX_EXTENT:  # 0 × 10¹⁸ needs no bytes and still overflows
        raise BadTensor(f"{name}: a side of its shape is over {MAX_EXTENT}")
    return name, dtype, tuple(shape), (begin, end)


def counts(value: object, most: int) -> bool:
    """Whether *value* is a list of up to *most* whole numbers of at least 0; True is not a number."""
    return isinstance(value, list) and len(value) <= most and all(type(x) is int and x >= 0 for x in value)


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return *pairs* as a table, or raise ValueError for a repeated key, which two readers would read differently."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError(f"{len(pairs) - len(table)} repeated keys")
    return table


def refused(constant: str) -> float:
    """Raise ValueError: NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is no JSON")
