"""Adapters as Flower's arrays: nothing that a stranger sends is believed."""

import io
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from adapters import SHAPES, low_rank
from flower_nodes import record
from potluck.aggregation import BadTensor
from potluck.simulations.flower.records import adapter_of, layout_of, record_of, values_of

PEFT = ("lora_A.weight", "lora_B.weight")


def stored(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


@pytest.mark.parametrize("style", [("lora_A", "lora_B"), PEFT])
def test_an_adapter_comes_back_as_it_was_under_the_names_it_had(style: tuple[str, str]):
    adapter = {name: low_rank(np.random.default_rng(1), shape, 3) for name, shape in SHAPES.items()}
    sent = record(adapter, style)

    layout = layout_of(sent)
    read = adapter_of(sent, layout, 2.0)

    assert (dict(layout.shapes), layout.rank, layout.style) == (SHAPES, 3, style)
    assert all(read[name].scale == 2.0 for name in adapter)
    assert all(np.array_equal(read[name].b, term.b) for name, term in adapter.items())
    assert {name: array.data for name, array in record_of(read, layout).items()} == {
        name: array.data for name, array in sent.items()
    }


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_read_in_any_float_type_and_order_without_a_copy(dtype: str, order: str):
    values = np.asarray(np.arange(6.0).reshape(2, 3), dtype, order=order)  # type: ignore[call-overload]

    read = values_of(Array(values), "w")

    assert np.array_equal(read, values)
    assert read.dtype == values.dtype
    assert not read.flags.writeable


LIE = (  # a header that claims two million million numbers, as np.save would write it
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 2000000), }".ljust(127) + b"\n"
)


def test_a_header_that_lies_about_its_size_allocates_nothing():
    """numpy.load of the same bytes asks for eight terabytes."""
    array = Array("float32", (2, 2), "numpy.ndarray", LIE)

    tracemalloc.start()
    with pytest.raises(BadTensor, match="do not fit its 0 bytes"):
        values_of(array, "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no matrix of floats"),
        (b"\x93NUMPY\x01\x00", "is no matrix"),
        (b"\x93NUMPY\x03\x00" + LIE[8:], "is no matrix"),
        (stored(np.zeros((2, 2), "f4"))[:8] + b"\x77\x00" + stored(np.zeros((2, 2), "f4"))[10:], "is no matrix"),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "is no matrix"),
        (stored(np.zeros((2, 2), "i4")), "is no matrix"),
        (stored(np.zeros((2, 2), "c8")), "is no matrix"),
        (stored(np.zeros((2, 2), ">f4")), "is no matrix"),
        (stored(np.zeros((2, 2), "U1")), "is no matrix"),
        (stored(np.zeros(4, "f4")), "is no matrix"),
        (stored(np.zeros((2, 2, 2), "f4")), "is no matrix"),
        (stored(np.zeros((0, 2), "f4")), "0 × 2 values of float32 do not fit its 0 bytes"),
        (stored(np.zeros((2, 2), "f4"))[:-1], "2 × 2 values of float32 do not fit its 15 bytes"),
        (stored(np.zeros((2, 2), "f4")) + b"\0", "do not fit its 17 bytes"),
        (stored(np.array([[1.0, np.nan]], "f4")), "NaN, infinity"),
        (stored(np.array([[1.0, np.inf]], "f2")), "NaN, infinity"),
        (stored(np.array([[-np.inf, 1.0]], "f8")), "NaN, infinity"),
        (stored(np.array([[1.001e9]], "f8")), r"beyond 1e\+09"),
        (stored(np.array([[-1.001e9]], "f4")), r"beyond 1e\+09"),
    ],
)
def test_bytes_that_are_no_matrix_of_finite_floats_are_refused(data: bytes, message: str):
    with pytest.raises(BadTensor, match=message):
        values_of(Array("float32", (2, 2), "numpy.ndarray", data), "w")


def test_the_largest_value_is_taken():
    largest = np.array([[1e9, -1e9]], "f4")
    assert np.array_equal(values_of(Array(largest), "w"), largest)


def test_an_array_that_numpy_did_not_write_is_refused():
    with pytest.raises(BadTensor, match="'pickle', 'float32'"):
        values_of(Array("float32", (1, 1), "pickle", stored(np.zeros((1, 1), "f4"))), "w")


def arrays(**shapes: tuple[int, int]) -> ArrayRecord:
    return ArrayRecord({name.replace("__", "."): Array(np.zeros(shape, "f4")) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ArrayRecord(), "0 arrays are not a LoRA adapter"),
        (arrays(q__lora_A=(2, 4), q__lora_B=(3, 2), head=(3, 3)), "'head' is not a LoRA factor"),
        (arrays(lora_A__q=(2, 4), lora_B__q=(3, 2)), r"'lora_A.q' is not a LoRA factor"),
        (arrays(q__lora_A=(2, 4)), r"no array 'q.lora_B'"),
        (arrays(q__lora_A__weight=(2, 4), q__lora_B=(3, 2)), "2 arrays are not a LoRA adapter of one style"),
        (arrays(q__lora_A=(2, 4), q__lora_B=(3, 3)), r"ranks \[2, 3\]"),
        (
            arrays(q__lora_A=(2, 4), q__lora_B=(3, 2), v__lora_A=(4, 4), v__lora_B=(3, 4)),
            r"ranks \[2, 4\]",
        ),
    ],
)
def test_arrays_that_are_no_adapter_are_refused_with_a_fix(record: ArrayRecord, message: str):
    with pytest.raises(BadTensor, match=message) as caught:
        layout_of(record)
    assert caught.value.__notes__[0].startswith("fix: ")
