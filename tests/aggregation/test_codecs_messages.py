"""Messages as other programs may read them: conformance vectors, and one tensor at a time."""

import json
import mmap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from page_reader import read_by_the_page
from potluck.aggregation import CODECS, BadTensor, Limits, decode, encode, opened
from potluck.aggregation.codecs.lossless import expanded, squeezed
from potluck.aggregation.codecs.messages import record_shapes
from potluck.aggregation.container import read, write

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_codecs.json").read_text("utf-8"))
ROOMY = Limits()
SMALL = {"topk": {"chunk": 64, "k": 4}, "sparse2bit": {"chunk": 64, "k": 4}}


def arrays_of(tensors) -> dict[str, np.ndarray]:
    return {name: np.array(one["values"], np.float32).reshape(one["shape"]) for name, one in tensors.items()}


@pytest.mark.parametrize("case", VECTORS["messages"], ids=lambda case: case["about"])
def test_messages_are_the_published_bytes(case):
    tensors = arrays_of(case["tensors"])

    data = encode(tensors, case["codec"], **case["settings"])

    assert data.hex() == case["hex"]
    found = decode(bytes.fromhex(case["hex"]), limits=ROOMY)
    assert {name: one.reshape(-1).tolist() for name, one in found.items()} == case["decoded"]
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in tensors.items()}


@pytest.mark.parametrize("case", VECTORS["compressed"], ids=lambda case: case["about"])
def test_published_compressed_messages_decode(case):
    found = decode(bytes.fromhex(case["hex"]), limits=ROOMY)

    assert found.keys() == case["decoded"].keys()
    for name, wanted in case["decoded"].items():
        assert list(found[name].shape) == wanted["shape"]
        flat = found[name].reshape(-1)
        assert {str(place): float(flat[place]) for place in np.flatnonzero(flat)} == wanted["nonzero"]


@pytest.mark.parametrize("case", [*VECTORS["messages"], *VECTORS["compressed"]], ids=lambda case: case["about"])
def test_a_reader_written_from_the_page_reads_every_published_message(case):
    """docs/protocol.md is enough: this reader uses nothing of ours."""
    found = read_by_the_page(bytes.fromhex(case["hex"]))

    for name, wanted in case["decoded"].items():
        if isinstance(wanted, list):
            assert found[name] == pytest.approx(wanted, rel=1e-6, abs=1e-30)
        else:
            assert {str(i): value for i, value in enumerate(found[name]) if value} == pytest.approx(wanted["nonzero"])


# -- one tensor at a time ---------------------------------------------------------------------------------------


def adapter(seed: int = 0, modules: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"layers.{n}.q.lora_{end}": rng.normal(size=shape, scale=1e-3)
        for n in range(modules)
        for end, shape in (("A", (4, 100)), ("B", (70, 4)))
    }


def code(tensors, codec: str, *, lossless: bool) -> bytes:
    return encode(tensors, codec, lossless=lossless, **SMALL.get(codec, {}))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_tensors_can_be_read_one_by_one(codec: str, lossless: bool):  # noqa: FBT001 - a parameter of the test
    data = code(adapter(), codec, lossless=lossless)

    message = opened(memoryview(data), limits=ROOMY)

    assert message.shapes == {name: value.shape for name, value in adapter().items()}
    assert message.facts["codec"] == codec
    whole = decode(data, limits=ROOMY)
    for name in reversed(list(message.shapes)):
        one = message.tensor(name)
        assert one.tobytes() == whole[name].tobytes()
        assert one.flags.writeable
        assert one.dtype == (np.float64 if codec == "fp64" else np.float32)
    with pytest.raises(KeyError):
        message.tensor("layers.9.q.lora_A")


def test_a_tensor_is_read_without_the_others():
    """A damaged one spoils itself only, and a mapped file does."""
    names = sorted(adapter())
    data = bytearray(code(adapter(), "int4", lossless=True))
    data[-1] ^= 0xFF  # within the record of the last

    message = opened(bytes(data), limits=ROOMY)

    whole = decode(code(adapter(), "int4", lossless=True), limits=ROOMY)
    for name in names[:-1]:
        assert np.array_equal(message.tensor(name), whole[name])
    try:
        assert not np.array_equal(message.tensor(names[-1]), whole[names[-1]])
    except BadTensor as error:
        assert names[-1] in str(error)  # noqa: PT017 - either may happen; each must name or change that tensor only


def test_a_mapped_file_is_read_where_it_lies(tmp_path):
    """A memory-mapped update of 4 MB costs one tensor's memory, not its own."""
    tensors = {f"m{n}.lora_A": np.full((64, 1024), n, np.float32) for n in range(16)}
    path = tmp_path / "update"
    path.write_bytes(encode(tensors, "fp32"))

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        tracemalloc.start()
        view = memoryview(mapped)
        message = opened(view, limits=ROOMY)
        for name in message.shapes:
            assert message.tensor(name)[0, 0] == int(name[1:].split(".")[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del message
        view.release()

    assert peak < 1_000_000


# -- the lossless stage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), zero=st.booleans(), modules=st.integers(0, 3))
def test_the_lossless_stage_loses_nothing(codec: str, seed: int, zero: bool, modules: int):  # noqa: FBT001 - drawn
    tensors = {name: value * (not zero) for name, value in adapter(seed, modules).items()}

    plain = decode(code(tensors, codec, lossless=False), limits=ROOMY)
    data = code(tensors, codec, lossless=True)

    found = decode(data, limits=ROOMY)
    assert found.keys() == plain.keys()
    assert all(found[name].tobytes() == plain[name].tobytes() for name in plain)
    assert data == code(dict(reversed(tensors.items())), codec, lossless=True)


def test_what_does_not_shrink_is_stored_as_it_is():
    """One record of noise and one of zeros, told apart by their first byte."""
    rng = np.random.default_rng(0)
    data = encode({"noise": rng.normal(size=4), "zeros": np.zeros(4000)}, "fp16", lossless=True)

    stored, facts = read(data, ROOMY)

    assert facts == {"codec": "fp16", "codec_version": "2"}
    assert (int(stored["noise"][0]), stored["noise"].size) == (0, 2 + 4 + 8)
    assert int(stored["zeros"][0]) == 1
    assert stored["zeros"].size < 40


def test_many_names_cost_little():
    """336 tensors: the header alone would be 33 kB."""
    names = [f"model.layers.{n}.self_attn.{m}_proj.lora_{end}" for n in range(24) for m in "qkvogud" for end in "AB"]

    plain, short = (len(encode({n: np.zeros(1) for n in names}, "int4", lossless=flag)) for flag in (False, True))

    assert plain > 33_000
    assert short < plain / 4


def test_a_frame_is_one_frame_with_nothing_behind_it():
    """Or one content would have many encodings."""
    data = squeezed(b"abc" * 50)

    assert expanded(data, 150) == b"abc" * 50
    for longer in (data + b"x", data + data):
        with pytest.raises(BadTensor, match="cannot be expanded"):
            expanded(longer, 150)


def test_without_the_lossless_stage_nothing_is_compressed():
    """Its bytes are the same with every version of zstandard, which no compressed frame promises."""
    tensors = {"w": np.eye(1, 4096, dtype=np.float32)}

    stored, _ = read(encode(tensors, "topk", chunk=64, k=4), ROOMY)
    short, _ = read(encode(tensors, "topk", chunk=64, k=4, lossless=True), ROOMY)

    assert (stored["w"][0], short["w"][0]) == (0, 1)
    assert short["w"].size < stored["w"].size / 2


def test_a_record_of_the_wrong_size_is_told_by_its_name():
    stored, facts = read(encode({"layer": np.ones(8, np.float32)}, "int4", block=8), ROOMY)
    size = stored["layer"].size - 6

    with pytest.raises(BadTensor, match=rf"^layer has {size - 1} bytes where {size} are needed$"):
        decode(write({"layer": stored["layer"][:-1]}, facts), limits=ROOMY)


def test_sides_of_one_do_not_make_a_shape_larger():
    sides = b"".join(side.to_bytes(4, "little") for side in (1 << 20, 1, 1 << 20, 1))

    shapes = record_shapes({"w": np.frombuffer(bytes([0, 4]) + sides, np.uint8)})

    assert shapes == {"w": (1 << 20, 1, 1 << 20, 1)}


def test_int8_is_what_nobody_has_to_ask_for():
    assert opened(encode({"w": np.ones(4, np.float32)}), limits=ROOMY).facts["codec"] == "int8"


def test_a_shape_that_no_record_holds_is_told_by_its_name():
    with pytest.raises(BadTensor, match=r"^w has shape \(1, 1, 1, 1, 1, 1, 1, 1, 1\)"):
        encode({"w": np.ones((1,) * 9, np.float32)}, "fp32", lossless=True)
