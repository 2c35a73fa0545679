"""Tensors to bytes and back, and bytes from strangers."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from potluck.aggregation import CODECS, BadSetting, BadTensor, Limits, UnknownName, decode, encode
from potluck.aggregation.container import read

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_codecs.json").read_text("utf-8"))
ROOMY = Limits()
EXACT = ("fp64", "fp32", "fp16")
TENSORS = st.dictionaries(
    st.sampled_from(["a", "model.q.lora_A", "model.q.lora_B", "ü"]),
    arrays(
        np.float32,
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20),
        elements=st.floats(-60000, 60000, width=16),
    ),
    max_size=3,
)


def file_of(header: object, body: bytes = b"") -> bytes:
    """Return a file with any header: an object to write as JSON, or bytes to take as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(begin: object, end: object, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_int8_known_answer():
    """T7: codes, scale, and an error of at most half a level."""
    values = np.array(VECTORS["int8"]["values"])

    data = encode({"v": values}, "int8")

    stored, facts = read(data, ROOMY)
    assert stored["v"].tolist() == VECTORS["int8"]["codes"]
    assert stored["v#scales"].tolist() == VECTORS["int8"]["scales"]
    assert facts == {"codec": "int8", "codec_version": "1", "block": "256"}
    assert np.max(np.abs(decode(data, limits=ROOMY)["v"] - values)) <= 1 / 254 + 1e-7


def test_a_file_is_the_bytes_that_the_format_says():
    """Length, header padded to eight, values: every byte of a small file."""
    case = VECTORS["fp32_file"]
    tensors = {name: np.array(values, np.float32) for name, values in case["tensors"].items()}

    data = encode(tensors, "fp32")

    header = case["header"].encode()
    padded = header + b" " * (-len(header) % 8)
    assert data == len(padded).to_bytes(8, "little") + padded + bytes.fromhex(case["body"])


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(tensors=TENSORS)
def test_what_is_encoded_comes_back(codec: str, tensors):
    """Every shape, empty ones too; float32 (float64 from fp64); the values are exact in half precision."""
    back = decode(encode(tensors, codec), limits=ROOMY)

    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        assert back[name].dtype == (np.float64 if codec == "fp64" else np.float32)
        assert back[name].flags.writeable
        if codec in EXACT:
            assert np.array_equal(back[name], tensor)


@given(
    values=arrays(np.float32, st.integers(1, 700), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    block=st.integers(8, 600),
)
def test_int8_errs_by_half_a_level_of_its_block(values, block: int):
    """|error| ≤ m / 254 per block, beside the rounding to float32."""
    back = decode(encode({"v": values}, "int8", block=block), limits=ROOMY)["v"]

    for begin in range(0, len(values), block):
        part, mine = values[begin : begin + block].astype(float), back[begin : begin + block].astype(float)
        largest = np.abs(part).max()
        assert np.all(np.abs(part - mine) <= largest / 254 * (1 + 1e-6) + 2e-45)


def test_fp64_keeps_every_bit():
    """The coordinator's checkpoint."""
    values = np.random.default_rng(0).normal(size=(7, 3)) * np.pi

    assert np.array_equal(decode(encode({"v": values}, "fp64"), limits=ROOMY)["v"], values)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_equal_contents_are_equal_bytes(codec: str):
    """Digests name adapters, so neither the order of names nor the memory layout may show."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 20)).astype(np.float32), rng.normal(size=5).astype(np.float32)

    assert encode({"x": x, "y": y}, codec) == encode({"y": y.copy(), "x": np.asfortranarray(x)}, codec)


def test_int8_is_about_a_quarter_of_fp32():
    """One byte for four, a float32 scale for 256, a header."""
    tensors = {"x": np.random.default_rng(2).normal(size=(64, 1024)).astype(np.float32)}

    assert len(encode(tensors, "int8")) / len(encode(tensors, "fp32")) < 0.26


def test_other_programs_open_our_files():
    """The safetensors package is the outside reference."""
    tensors = {"q.lora_A": np.random.default_rng(3).normal(size=(4, 9)).astype(np.float32), "z": np.zeros((0, 3), "f4")}

    for codec in ("fp32", "fp16", "fp64", "int8"):
        opened = safetensors.numpy.load(encode(tensors, codec))
        assert set(tensors) <= set(opened)
    opened = safetensors.numpy.load(encode(tensors, "fp32"))
    assert all(np.array_equal(opened[name], tensor) for name, tensor in tensors.items())


@given(tensors=TENSORS)
def test_we_open_other_programs_files(tensors):
    """A PEFT folder's file has no codec in its metadata: it is fp32."""
    for metadata in (None, {"format": "pt"}):
        back = decode(safetensors.numpy.save(tensors, metadata), limits=ROOMY)
        assert back.keys() == tensors.keys()
        assert all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())


def opened(data: bytes) -> dict[str, np.ndarray]:
    """Return what *data* decodes to, nothing if it is refused; any exception but BadTensor fails the test."""
    try:
        return decode(data, limits=ROOMY)
    except BadTensor:
        return {}


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_bad_tensor(data: bytes):
    """Nothing else may come out: an unexpected exception is a way to stop a coordinator."""
    assert opened(data) == {}


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_header_is_refused_as_a_bad_tensor(text: bytes, body: bytes):
    """With the length right, so that the JSON is reached."""
    assert opened(file_of(b"{" + text, body)) == {}


@pytest.mark.parametrize("codec", sorted(CODECS))
@given(data=st.data())
def test_a_damaged_file_is_refused_or_holds_finite_numbers(codec: str, data):
    """Flip, cut, insert anywhere in a valid file."""
    rng = np.random.default_rng(4)
    whole = encode({"q.lora_A": rng.normal(size=(2, 9)), "q.lora_B": rng.normal(size=(7, 2))}, codec)
    place = data.draw(st.integers(0, len(whole)))
    removed, added = data.draw(st.integers(0, 9)), data.draw(st.binary(max_size=9))

    tensors = opened(whole[:place] + added + whole[place + removed :])

    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HUGE = b'{"x":{"dtype":"F32","shape":[' + b"9" * 9_000 + b'],"data_offsets":[0,4]}}'
HOSTILE = {
    "no bytes": b"",
    "half a length": b"\x01\x00\x00",
    "a header longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "a header of exabytes": (2**63).to_bytes(8, "little") + b"{}",
    "a header over a mebibyte": file_of(b"{}" + b" " * (1 << 20)),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "UTF-16": file_of('{"x":1}'.encode("utf-16")),
    "a byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "no JSON": file_of(b"{x}"),
    "a list": file_of([]),
    "a space before": file_of(b" {}"),
    "depth": file_of(DEEP),
    "a number of 9,000 digits": file_of(HUGE, b"\0" * 4),
    "NaN as a number": file_of(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"\0" * 4),
    "a repeated name": file_of(b'{"x":%b,"x":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"\0" * 4),
    "a repeated key": file_of(b'{"x":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    "an entry too many": file_of({"x": {**entry(0, 4), "y": 1}}, b"\0" * 4),
    "an entry too few": file_of({"x": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "an entry that is a number": file_of({"x": 1}),
    "overlap": file_of({"x": entry(0, 8, [2]), "y": entry(4, 12, [2])}, b"\0" * 12),
    "the same bytes twice": file_of({"x": entry(0, 4), "y": entry(0, 4)}, b"\0" * 4),
    "a hole": file_of({"x": entry(0, 4), "y": entry(8, 12)}, b"\0" * 12),
    "a hole at the front": file_of({"x": entry(4, 8)}, b"\0" * 8),
    "bytes left over": file_of({"x": entry(0, 4)}, b"\0" * 5),
    "too few bytes": file_of({"x": entry(0, 4)}, b"\0" * 3),
    "ends reversed": file_of({"x": entry(4, 0)}, b"\0" * 4),
    "negative offsets": file_of({"x": entry(-4, 0)}, b"\0" * 4),
    "a negative side": file_of({"x": entry(0, 4, [-1])}, b"\0" * 4),
    "two negative sides": file_of({"x": entry(0, 4, [-1, -1])}, b"\0" * 4),
    "a fraction": file_of({"x": entry(0, 4, [1.0])}, b"\0" * 4),
    "true as one": file_of({"x": entry(0, 4, [True])}, b"\0" * 4),
    "a shape of text": file_of({"x": entry(0, 4, "1")}, b"\0" * 4),
    "nine sides": file_of({"x": entry(0, 4, [1] * 9)}, b"\0" * 4),
    "a huge empty side": file_of({"x": entry(0, 0, [0, 2**62])}),
    "huge empty sides": file_of({"x": entry(0, 0, [0] + [2**31] * 7)}),
    "a product that wraps to 4": file_of({"x": entry(0, 4, [2**62 + 1, 4])}, b"\0" * 4),
    "a type that we do not use": file_of({"x": entry(0, 4, [2], "BF16")}, b"\0" * 4),
    "a type that is a list": file_of({"x": entry(0, 4, [1], ["F32"])}, b"\0" * 4),
    "a type of the wrong size": file_of({"x": entry(0, 4, [1], "F64")}, b"\0" * 4),
    "an empty name": file_of({"": entry(0, 4)}, b"\0" * 4),
    "a name of a kilobyte": file_of({"x" * 1024: entry(0, 4)}, b"\0" * 4),
    "a name that moves the cursor": file_of({"\x1b[2J": entry(0, 4)}, b"\0" * 4),
    "half a surrogate": file_of(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata of text": file_of({"__metadata__": "codec"}),
    "an unknown codec": file_of({"__metadata__": {"codec": "zip", "codec_version": "1"}}),
    "a later version": file_of({"__metadata__": {"codec": "fp32", "codec_version": "3"}}),
    "int8 without block": file_of({"__metadata__": {"codec": "int8", "codec_version": "1"}}),
    "int8 of block 0": file_of({"__metadata__": {"codec": "int8", "codec_version": "1", "block": "0"}}),
    "int8 of block ²": file_of({"__metadata__": {"codec": "int8", "codec_version": "1", "block": "²"}}),
    "halves in an fp32 file": file_of({"x": entry(0, 2, [1], "F16")}, b"\0" * 2),
    "NaN": file_of({"x": entry(0, 4)}, np.float32(np.nan).tobytes()),
    "infinity": file_of({"x": entry(0, 4)}, np.float32(-np.inf).tobytes()),
}
INT8 = {"codec": "int8", "codec_version": "1", "block": "8"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str):
    """Each a known way to make two readers disagree, or one allocate, recurse or crash."""
    with pytest.raises(BadTensor):
        decode(HOSTILE[name], limits=ROOMY)


@pytest.mark.parametrize(
    ("entries", "body"),
    [
        ({"x": entry(0, 4, [4], "I8")}, b"\0" * 4),
        ({"x#scales": entry(0, 4)}, b"\0" * 4),
        ({"x": entry(0, 4, [1]), "x#scales": entry(4, 8)}, b"\0" * 8),
        ({"x#scales": entry(0, 8, [2]), "x": entry(8, 12, [4], "I8")}, b"\0" * 12),
        ({"x#scales": entry(0, 4, [1, 1]), "x": entry(4, 8, [4], "I8")}, b"\0" * 8),
        ({"x#scales": entry(0, 4), "x": entry(4, 8, [4], "I8")}, np.float32(-1).tobytes() + b"\1" * 4),
        ({"x#scales": entry(0, 4), "x": entry(4, 8, [4], "I8")}, np.float32(np.inf).tobytes() + b"\1" * 4),
        ({"x#scales": entry(0, 4), "x": entry(4, 8, [4], "I8")}, np.float32(1).tobytes() + b"\x80" * 4),
        ({"x#scales#scales": entry(0, 4), "x#scales": entry(4, 8), "x": entry(8, 9, [1], "I8")}, b"\0" * 9),
    ],
    ids=[
        "no scales",
        "scales alone",
        "codes of float32",
        "two scales for one block",
        "scales with two sides",
        "a negative scale",
        "an infinite scale",
        "a code of -128",
        "scales of scales",
    ],
)
def test_int8_without_fitting_scales_is_refused(entries, body: bytes):
    """Missing, alone, of the wrong type or number, negative, infinite; or a code that we never write."""
    with pytest.raises(BadTensor):
        decode(file_of({"__metadata__": INT8, **entries}, body), limits=ROOMY)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(max_bytes=500), "the limit is 500"),
        (Limits(max_tensors=1), "2 tensors of 200 values; the limits are 1"),
        (Limits(max_values=199), "200 values"),
    ],
)
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_limits_hold_before_anything_is_allocated(codec: str, limits: Limits, says: str):
    """And a message exactly at the limits passes."""
    data = encode({"x": np.ones((10, 10)), "y": np.ones(100)}, codec)
    if len(data) <= 500:
        data = encode({"x": np.ones((10, 10)), "y": np.ones(100)}, "fp32")

    with pytest.raises(BadTensor, match=says):
        decode(data, limits=limits)
    assert len(decode(data, limits=Limits(len(data), 2, 200))) == 2


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: encode({"x": x * np.nan}, "fp32"), BadTensor, "NaN or infinite at 0 of 4"),
        (lambda x: encode({"x": x * 1e5}, "fp16"), BadTensor, "x as float16"),
        (lambda x: encode({"x": x * 1e39}, "int8"), BadTensor, "x as float32"),
        (lambda x: encode({"x": x.astype(int)}, "fp32"), BadTensor, "x holds int64"),
        (lambda x: encode({"x": x, "x#scales": x}, "int8"), BadTensor, "marks its own scales"),
        (lambda x: encode({"": x}, "fp32"), BadTensor, "under the name ''"),
        (lambda x: encode({"__metadata__": x}, "fp32"), BadTensor, "__metadata__"),
        (lambda x: encode({"x": x}, "int9"), UnknownName, "int9"),
        (lambda x: encode({"x": x}, "int8", blocks=64), UnknownName, "blocks"),
        (lambda x: encode({"x": x}, "int8", block=7), BadSetting, "block is 7"),
    ],
)
def test_what_cannot_be_encoded_is_refused(call, error, says: str):
    """The sender hears of it, not the receiver."""
    with pytest.raises(error, match=says):
        call(np.ones(4))
