"""Adapters as Flower's arrays: read without trusting them, written under the names they came with."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from numpy.typing import NDArray

from potluck.aggregation.errors import BadTensor
from potluck.aggregation.lowrank import LowRank

Values = NDArray[np.floating]

STYLES: Final = (("lora_A", "lora_B"), ("lora_A.weight", "lora_B.weight"))
"""How the two factors of a module may be called after its name and a dot: by us, and by PEFT's state dict."""
TYPES: Final = ("<f2", "<f4", "<f8")
NUMPY: Final = "numpy.ndarray"
MATRIX_DIMS: Final = 2
LARGEST: Final = float(np.finfo(np.float32).max)
"""Values beyond it are refused, in doubles too: squares of squares must stay finite."""


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

    Its header is checked against its length first: `Array.numpy` allocates whatever shape the header claims.

    Raises:
        BadTensor: anything but a matrix of floats, each finite and within float32's range.
    """
    buffer = io.BytesIO(array.data)
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(buffer)]
        shape, fortran, dtype = read(buffer)
    except (ValueError, KeyError) as error:
        raise BadTensor(f"{name} is not an array as np.save writes it: {error}") from None
    begin, values = buffer.tell(), math.prod(shape)
    if array.stype != NUMPY or dtype.str not in TYPES or len(shape) != MATRIX_DIMS or min(shape) < 1:
        raise BadTensor(
            f"{name} is {array.stype} of {dtype} and shape {shape}", fix="send matrices of float16, float32 or float64"
        )
    if len(array.data) - begin != values * dtype.itemsize:
        raise BadTensor(f"{name}: shape {shape} of {dtype} does not fit its {len(array.data) - begin} bytes")
    matrix = np.frombuffer(array.data, dtype, offset=begin).reshape(shape, order="F" if fortran else "C")
    if not max(float(matrix.max()), -float(matrix.min())) <= LARGEST:  # NaN is not
        raise BadTensor(f"{name} holds NaN, infinity, or a value beyond {LARGEST:.3g}")
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
