"""Adapters as Flower's arrays: read without trusting them, written under the names they came with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import LowRank

Values = NDArray[np.floating]

STYLES: Final = (("lora_A", "lora_B"), ("lora_A.weight", "lora_B.weight"))
"""How the two factors of a module may be called after its name and a dot: by us, and by PEFT's state dict."""
NUMPY: Final = "numpy.ndarray"
PREAMBLE_BYTES: Final = 10
HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"{'descr': '(<f[248])', 'fortran_order': (True|False), 'shape': \((\d{1,9}), (\d{1,9})\), } *\n",
    re.DOTALL,
)
"""Of a matrix of floats, version 1.0; see numpy.lib.format."""
LARGEST: Final = 1e9
"""No trained adapter comes near it.  Products of products of such values still fit into the float32 of a sketch, so
one reply cannot turn a round's sums into infinity."""


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """What the arrays of an adapter are called and how large they are."""

    shapes: Mapping[str, tuple[int, int]]
    """Per module, the (d, k) of its product."""
    rank: int
    """r, of every module: A is (r, k) and B is (d, r)."""
    style: tuple[str, str]
    """How A and B are called after the module's name and a dot."""

    @property
    def names(self) -> dict[str, tuple[str, str]]:
        """The names of (A, B) per module."""
        a, b = self.style
        return {module: (f"{module}.{a}", f"{module}.{b}") for module in self.shapes}


def layout_of(record: ArrayRecord) -> Layout:
    """Return the layout of *record*, the operator's own arrays.

    Raises:
        BadTensor: an array that is no factor of an adapter, a factor without the other, or ranks that differ.
    """
    style = next((style for style in STYLES if all(name.endswith(style) for name in record)), None)
    if style is None or not record:
        odd = next((name for name in record if not name.endswith(STYLES[0] + STYLES[1])), "")
        raise BadTensor(
            f"{odd!r} is not a LoRA factor" if odd else f"{len(record)} arrays are not a LoRA adapter of one style",
            fix='name the arrays "MODULE.lora_A" (r, k) and "MODULE.lora_B" (d, r), as peft.get_peft_model_state_dict '
            "does, and leave heads, biases and magnitudes out",
        )
    ends = {name: end for name in record for end in style if name.endswith(end)}
    modules = dict.fromkeys(name[: -len(end) - 1] for name, end in ends.items())
    layout = Layout(dict.fromkeys(modules, (0, 0)), 0, style)
    for pair in layout.names.values():
        if missing := [name for name in pair if name not in record]:
            raise BadTensor(f"there is no array {missing[0]!r}", fix="give both factors of every module")
    factors = {m: (values_of(record[b], b), values_of(record[a], a)) for m, (a, b) in layout.names.items()}
    ranks = {side for b, a in factors.values() for side in (b.shape[1], a.shape[0])}
    if len(ranks) != 1:
        raise BadTensor(f"the modules have the ranks {sorted(ranks)}", fix="give every module the same rank")
    return Layout({m: (b.shape[0], a.shape[1]) for m, (b, a) in factors.items()}, ranks.pop(), style)


def values_of(array: Array, name: str) -> Values:
    """Return the values of *array*, a read-only (rows, columns) view of its bytes.

    The header must be the one that np.save writes, and is checked against the length: `Array.numpy` parses whatever a
    stranger put there and allocates whatever shape it claims.

    Raises:
        BadTensor: anything but a matrix of floats, each finite and at most LARGEST.
    """
    header = HEADER.match(array.data) if array.stype == NUMPY else None
    if header is None or int.from_bytes(header[1], "little") != header.end() - PREAMBLE_BYTES:
        raise BadTensor(
            f"{name} is no matrix of floats as np.save writes it, but {array.stype!r:.40}, {array.dtype!r:.40}, "
            f"{array.shape!r:.80}",
            fix="send matrices of float16, float32 or float64",
        )
    dtype, rows, columns = np.dtype(header[2].decode()), int(header[4]), int(header[5])
    size = len(array.data) - header.end()
    if size != rows * columns * dtype.itemsize or not size:
        raise BadTensor(f"{name}: {rows} × {columns} values of {dtype} do not fit its {size} bytes")
    order: Literal["F", "C"] = "F" if header[3] == b"True" else "C"
    matrix = np.frombuffer(array.data, dtype, offset=header.end()).reshape((rows, columns), order=order)
    if not max(float(matrix.max()), -float(matrix.min())) <= LARGEST:  # NaN is not
        raise BadTensor(f"{name} holds NaN, infinity, or a value beyond {LARGEST:.0e}")
    return matrix


def adapter_of(record: ArrayRecord, layout: Layout, scale: float) -> dict[str, LowRank]:
    """Return the adapter in *record*, whose layout is known, every module at *scale*."""
    return {
        module: LowRank(values_of(record[b], b), values_of(record[a], a), scale)
        for module, (a, b) in layout.names.items()
    }


def record_of(adapter: Mapping[str, LowRank], layout: Layout) -> ArrayRecord:
    """Return *adapter* as arrays under the names of *layout*; the scale stays out, as in a PEFT folder."""
    arrays = {}
    for module, (a, b) in layout.names.items():
        arrays[a] = Array(np.ascontiguousarray(adapter[module].a))
        arrays[b] = Array(np.ascontiguousarray(adapter[module].b))
    return ArrayRecord(arrays)
