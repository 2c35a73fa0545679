"""An update matches its manifest exactly, or is refused before anything large is allocated."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation import encode
from potluck.aggregation.errors import BadTensor
from potluck.wire.tensors import Manifest, decode_update

MODULES = {"layers.0.q": (4, 6), "layers.1.q": (4, 6)}
MANIFEST = Manifest.of_update(MODULES, rank=2)


def update(**changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in MANIFEST.entries}
    return tensors | {name.replace("__", "."): value for name, value in changes.items()}


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8"])
def test_a_whole_update_comes_back(codec: str):
    tensors = update()

    found = decode_update(encode(tensors, codec), MANIFEST)

    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_allclose(found[name], value, atol=np.abs(value).max() / 127)


def test_a_missing_and_an_extra_tensor_are_both_named():
    tensors = update(layers__9__q__lora_A=np.zeros((2, 6), np.float32))
    del tensors["layers.0.q.lora_B"]

    with pytest.raises(BadTensor, match=r"1 tensors are missing \(layers.0.q.lora_B\) and 1 are unexpected \(layers.9"):
        decode_update(encode(tensors, "fp32"), MANIFEST)


@pytest.mark.parametrize("shape", [(6, 2), (3, 6), (12,), (2, 6, 1)], ids=str)
def test_a_wrong_shape_is_named_with_the_right_one(shape: tuple[int, ...]):
    tensors = update(layers__0__q__lora_A=np.ones(shape, np.float32))

    with pytest.raises(BadTensor, match=r"the recipe's is \(2, 6\)|limit"):
        decode_update(encode(tensors, "fp32"), MANIFEST)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(value: float):
    tensors = update()
    tensors["layers.0.q.lora_A"][1, 2] = value
    data = bytearray(encode(update(), "fp32"))
    good = encode(update(), "fp32")
    place = good.index(update()["layers.0.q.lora_A"].tobytes()) + 4 * 8
    data[place : place + 4] = struct.pack("<f", value)

    with pytest.raises(BadTensor, match=r"NaN|infinit|finite"):
        decode_update(bytes(data), MANIFEST)


@given(st.integers(0, 10_000))
def test_a_cut_file_is_refused(length: int):
    data = encode(update(), "int8")

    with pytest.raises(BadTensor):
        decode_update(data[: length % len(data)], MANIFEST)


def test_a_header_that_promises_a_terabyte_costs_nothing():
    entry = {"dtype": "F32", "shape": [1 << 19, 1 << 19], "data_offsets": [0, 1 << 40]}
    header = json.dumps({"layers.0.q.lora_A": entry}).encode()
    data = struct.pack("<Q", len(header)) + header + b"\0" * 64

    tracemalloc.start()
    with pytest.raises(BadTensor):
        decode_update(data, MANIFEST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1_000_000


def test_the_digest_tells_manifests_apart():
    assert MANIFEST.digest() == Manifest.of_update(dict(reversed(MODULES.items())), rank=2).digest()
    assert MANIFEST.digest() != Manifest.of_update(MODULES, rank=3).digest()
