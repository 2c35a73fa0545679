"""Messages from strangers: damaged, cut off, lying about their sizes.  Refused, or finite numbers within the limits."""

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.aggregation import CODECS, BadTensor, Limits, decode, encode, opened
from potluck.aggregation.codecs.registry import make_codec
from potluck.aggregation.container import write

ROOMY = Limits()
SMALL = {"topk": {"chunk": 64, "k": 4}, "sparse2bit": {"chunk": 64, "k": 4}}
INT4 = {"codec": "int4", "codec_version": "2", "block": "8"}
TENSORS = {"q.lora_A": np.linspace(-1, 1, 400).reshape(4, 100), "q.lora_B": np.linspace(3, 0, 280).reshape(70, 4)}


def code(tensors, codec: str, *, lossless: bool) -> bytes:
    return encode(tensors, codec, lossless=lossless, **SMALL.get(codec, {}))


def attempt(data: bytes) -> dict[str, np.ndarray]:
    """Return what *data* decodes to, nothing if it is refused; any exception but BadTensor fails the test."""
    try:
        return decode(data, limits=ROOMY)
    except BadTensor:
        return {}


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_refused_or_holds_finite_numbers(codec: str, lossless: bool, data):  # noqa: FBT001
    whole = code(TENSORS, codec, lossless=lossless)
    place = data.draw(st.integers(0, len(whole)))
    removed, added = data.draw(st.integers(0, 9)), data.draw(st.binary(max_size=9))

    tensors = attempt(whole[:place] + added + whole[place + removed :])

    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert sum(tensor.size for tensor in tensors.values()) <= ROOMY.max_values


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_a_message_that_is_cut_off_anywhere_is_refused(codec: str, lossless: bool):  # noqa: FBT001
    whole = code({"v": np.linspace(-1, 1, 70)}, codec, lossless=lossless)

    for length in range(len(whole)):
        assert attempt(whole[:length]) == {}
    assert attempt(whole + b"\0") == {}
    assert attempt(whole).keys() == {"v"}


def record(*parts: bytes, stage: int = 0, shape: tuple[int, ...] = (16,), name: str = "v") -> bytes:
    """Return an int4 message of block 8 with one record."""
    body = bytes([stage, len(shape)]) + struct.pack(f"<{len(shape)}I", *shape) + b"".join(parts)
    return write({name: np.frombuffer(body, np.uint8)}, INT4)


def frame(content: bytes, **how: bool) -> bytes:
    return zstandard.ZstdCompressor(**how).compress(content)


PARTS = (b"\x11" * 8, b"\0" * 2, struct.pack("<f", 1.0))
CONTENT = b"".join(PARTS)
BOMB = frame(b"\0" * (1 << 26))
LIAR = frame(CONTENT)[:4] + bytes([frame(CONTENT)[4]]) + bytes([200]) + frame(CONTENT)[6:]
HOSTILE = {
    "a stage that there is not": record(CONTENT, stage=2),
    "nine sides": record(CONTENT, shape=(1,) * 8 + (16,)),
    "fewer bytes than the sides": record(shape=()) [:-1],
    "sides that are cut off": write({"v": np.array([0, 3, 1, 0], np.uint8)}, INT4),
    "a record of one byte": write({"v": np.array([0], np.uint8)}, INT4),
    "a record of floats": write({"v": np.zeros(4, np.float32)}, INT4),
    "a record of two sides": write({"v": np.zeros((2, 4), np.uint8)}, INT4),
    "a byte too few": record(CONTENT[:-1]),
    "a byte too many": record(CONTENT, b"\0"),
    "a shape that is larger": record(CONTENT, shape=(18,)),
    "a shape of 2^64": record(CONTENT, shape=(2**32 - 1, 2**32 - 1)),
    "an empty shape that overflows": record(b"", shape=(0, 2**32 - 1, 2**32 - 1)),
    "a code of 0": record(b"\x10" * 8, *PARTS[1:]),
    "a negative peak": record(*PARTS[:2], struct.pack("<f", -1.0)),
    "a peak that is no number": record(*PARTS[:2], struct.pack("<f", np.nan)),
    "an infinite peak": record(*PARTS[:2], struct.pack("<f", np.inf)),
    "bits after the last code": record(b"\x11" * 7 + b"\x11", b"\0" * 2, PARTS[2], shape=(15,)),
    "a bomb": record(BOMB, stage=1),
    "a frame that states too little": record(frame(CONTENT[:-1]), stage=1),
    "a frame that states nothing": record(frame(CONTENT, write_content_size=False), stage=1),
    "a frame that lies": record(LIAR, stage=1),
    "a frame that is cut off": record(frame(CONTENT)[:-1], stage=1),
    "two frames": record(frame(CONTENT[:6]), frame(CONTENT[6:]), stage=1),
    "bytes after the frame": record(frame(CONTENT), b"\0", stage=1),
    "a frame after the frame": record(frame(CONTENT), frame(b""), stage=1),
    "no frame": record(CONTENT, stage=1),
    "nothing to expand": record(stage=1),
    "version 1 of a codec that has none": write({"v": np.zeros(4, np.uint8)}, INT4 | {"codec_version": "1"}),
    "version 2 of a plain file": write({"v": np.zeros(4, "f4")}, {"codec": "fp32", "codec_version": "2"}),
    "a block of 7": write({}, {"codec": "nf4", "codec_version": "2", "block": "7"}),
    "no k": write({}, {"codec": "topk", "codec_version": "2", "chunk": "64", "bits": "16"}),
    "more than every value": write({}, {"codec": "topk", "codec_version": "2", "chunk": "64", "k": "65", "bits": "16"}),
}  # fmt: skip


def test_the_honest_record_is_taken():
    """So that the hostile ones are refused for what they are."""
    assert decode(record(CONTENT), limits=ROOMY)["v"].tolist() == [-1.0] * 16
    assert decode(record(frame(CONTENT), stage=1), limits=ROOMY)["v"].tolist() == [-1.0] * 16
    assert decode(record(*PARTS, shape=(4, 4)), limits=ROOMY)["v"].shape == (4, 4)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_refused(name: str):
    with pytest.raises(BadTensor):
        decode(HOSTILE[name], limits=ROOMY)


@pytest.mark.parametrize(
    "name", ["a bomb", "a shape that is larger", "a shape of 2^64", "a frame that states too little"]
)
def test_nothing_is_expanded_before_its_size_is_known_to_be_right(name: str):
    """64 MiB of zeros in a few kilobytes: refused without the memory."""
    tracemalloc.start()
    with pytest.raises(BadTensor):
        decode(HOSTILE[name], limits=ROOMY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1_000_000


def test_a_header_that_expands_to_more_than_it_says_is_refused():
    """And one that says more than a mebibyte is not expanded at all."""
    text = b'{"a":1}' + b" " * 5000
    squeezed = frame(text)
    for stated in (len(text) - 1, len(text) + 1, 1 << 31):
        with pytest.raises(BadTensor):
            decode(struct.pack("<II", len(squeezed), stated) + squeezed, limits=ROOMY)
    bomb = frame(b" " * (1 << 26))
    tracemalloc.start()
    with pytest.raises(BadTensor):
        decode(struct.pack("<II", len(bomb), 1 << 26) + bomb, limits=ROOMY)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("codec", ["topk", "sparse2bit"])
def test_positions_must_be_spread_as_the_codec_spreads_them(codec: str):
    """Two values of the first chunk and none of the second: more of one place than others may send."""
    coder = make_codec(codec, chunk=64, k=1)
    flat = np.zeros(128, np.float32)
    flat[[3, 5]] = 1
    high, low = make_codec("topk", chunk=128, k=2).pack(flat)[:2]
    rest = coder.pack(flat)[2:]

    with pytest.raises(BadTensor, match="a chunk does not have its 1 values"):
        coder.unpack((high, low, *rest), 128)


@pytest.mark.parametrize(
    ("share", "peak"), [(np.nan, 1.0), (1.5, 1.0), (-1.5, 1.0), (1.0, -1.0), (1.0, np.inf), (1.0, np.nan)]
)
def test_means_outside_their_peak_are_refused(share: float, peak: float):
    coder = make_codec("sparse2bit", chunk=64, k=1)
    high, low, codes, _, _ = coder.pack(np.eye(1, 64, dtype=np.float32)[0])

    with pytest.raises(BadTensor, match="a peak of"):
        coder.unpack((high, low, codes, np.array([0, 0, 0, share], np.float16), np.array([peak], np.float32)), 64)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lossless", [False, True])
def test_limits_hold_for_every_codec_and_stage(codec: str, lossless: bool):  # noqa: FBT001
    data = code({"x": np.ones((10, 10)), "y": np.ones(100)}, codec, lossless=lossless)

    for limits in (Limits(len(data) - 1, 2, 200), Limits(len(data), 1, 200), Limits(len(data), 2, 199)):
        with pytest.raises(BadTensor, match="limit"):
            opened(data, limits=limits)
    assert len(decode(data, limits=Limits(len(data), 2, 200))) == 2
