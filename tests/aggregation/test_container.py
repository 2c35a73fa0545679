"""Files of tensors, made by hand: what is read to the last allowed byte, and what is refused for which reason."""

import json
import re
import struct

import numpy as np
import pytest

from potluck.aggregation import BadTensor, Limits
from potluck.aggregation.container import MAX_EXTENT, MAX_HEADER_BYTES, MAX_NAME, counts, read, write

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BODY = struct.pack("<f", 2.5)


def file_of(header: object, body: bytes = BODY) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def refused(header: object, body: bytes = BODY, limits: Limits | None = None) -> str:
    with pytest.raises(BadTensor) as caught:
        read(file_of(header, body), limits or Limits())
    return str(caught.value)


def test_a_file_made_by_hand_is_read():
    tensors, metadata = read(file_of({"w": ENTRY, "__metadata__": {"a": "b"}}), Limits())

    assert (tensors["w"].tolist(), tensors["w"].dtype, metadata) == ([2.5], np.float32, {"a": "b"})
    assert read(file_of({}, b""), Limits()) == ({}, {})


@pytest.mark.parametrize("ends", [[], [0], [4], [0, 4, 4], [0.0, 4], [0, 4.0], [False, 4], [-4, 0], "04", None, {}])
def test_offsets_are_two_whole_numbers(ends: object):
    """Anything else must end in our refusal, and not in whatever unpacking it raises."""
    assert "whole numbers" in refused({"w": ENTRY | {"data_offsets": ends}})


@pytest.mark.parametrize("shape", [[1.0], [True], [-1], ["1"], [[1]], "1", 1, None, [1] * 9])
def test_a_shape_is_up_to_eight_whole_numbers(shape: object):
    assert "whole numbers" in refused({"w": ENTRY | {"shape": shape}})
    assert read(file_of({"w": ENTRY | {"shape": [1] * 8}}), Limits())[0]["w"].shape == (1,) * 8


@pytest.mark.parametrize("name", ["", "n" * (MAX_NAME + 1), "a\nb", "a\0"])
def test_a_name_can_be_printed_and_has_up_to_512_characters(name: str):
    assert "characters that cannot be printed" in refused({name: ENTRY})
    with pytest.raises(BadTensor, match=r"^cannot store a tensor of type float32 under the name"):
        write({name: np.ones(1, np.float32)}, {})

    longest = "n" * MAX_NAME
    assert list(read(write({longest: np.ones(1, np.float32)}, {}), Limits())[0]) == [longest]
    assert list(read(file_of({longest: ENTRY}), Limits())[0]) == [longest]


@pytest.mark.parametrize("dtype", ["F33", "BF16", "f4", "", 4, None, ["F32"]])
def test_a_type_is_one_of_ours(dtype: object):
    assert "the type is none of F64, F32, F16, I8, U8" in refused({"w": ENTRY | {"dtype": dtype}})


@pytest.mark.parametrize(
    ("ends", "shape"), [([0, 4], [2]), ([0, 8], [2]), ([4, 4], [1]), ([4, 0], [0]), ([0, 4], [0]), ([5, 5], [0])]
)
def test_shape_and_offsets_and_bytes_agree(ends: list[int], shape: list[int]):
    assert "do not agree" in refused({"w": ENTRY | {"shape": shape, "data_offsets": ends}})


@pytest.mark.parametrize("entry", [None, [], "w", ENTRY | {"more": 1}, {"dtype": "F32", "shape": [1]}])
def test_an_entry_has_three_fields(entry: object):
    assert "an entry is a table of dtype, shape and data_offsets" in refused({"w": entry})


def test_tensors_lie_one_after_the_other_to_the_last_byte():
    after = {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]}

    assert read(file_of({"b": after, "w": ENTRY}, BODY + b"\1\2"), Limits())[0]["b"].tolist() == [1, 2]
    assert refused({"w": ENTRY, "b": after}, BODY + b"\1\2\3") == "1 bytes follow the last tensor"
    hole = after | {"data_offsets": [5, 7]}
    assert refused({"w": ENTRY, "b": hole}, BODY + b"\1\2\3") == "b begins at byte 5, and the one before it ends at 4"


def test_an_empty_shape_may_not_overflow():
    empty = {"dtype": "F32", "shape": [0, MAX_EXTENT, 1], "data_offsets": [0, 0]}

    assert read(file_of({"w": empty}, b""), Limits())[0]["w"].shape == (0, MAX_EXTENT, 1)
    assert "a side of its shape is over" in refused({"w": empty | {"shape": [0, MAX_EXTENT + 1]}}, b"")


@pytest.mark.parametrize("metadata", [[], "a", None, {"a": 1}, {"a": None}])
def test_metadata_are_strings(metadata: object):
    assert refused({"w": ENTRY, "__metadata__": metadata}) == "the metadata is not a table of strings"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[]", "table"), (" {}", "table"), ('{"a":NaN}', "JSON"), ('{"a":1,"a":1}', "JSON"), ("\xff", "JSON")],
)
def test_a_header_is_one_table_without_repeats(text: str, kind: str):
    with pytest.raises(BadTensor, match=f"is not {kind}|is not a {kind}"):
        read(struct.pack("<Q", len(text)) + text.encode("latin-1"), Limits())


def test_a_file_is_as_long_as_it_may_be_and_holds_its_header():
    whole = file_of({"w": ENTRY})

    assert read(whole, Limits(max_bytes=len(whole)))[0].keys() == {"w"}
    with pytest.raises(BadTensor, match=f"^{len(whole)} bytes; the limit is {len(whole) - 1}"):
        read(whole, Limits(max_bytes=len(whole) - 1))
    assert read(struct.pack("<Q", 2) + b"{}", Limits()) == ({}, {})
    for short in (b"", b"\0" * 7, struct.pack("<Q", 3) + b"{}"):
        with pytest.raises(BadTensor, match=re.escape(f"{len(short)} bytes cannot hold a header")):
            read(short, Limits())


def test_what_is_written_is_sorted_by_width_and_name_and_padded():
    tensors = {"b": np.ones(1, np.uint8), "c": np.ones(1, np.float32), "a": np.ones(1, np.float32)}

    data = write(tensors, {"k": "v"})

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"} == {
        "a": [0, 4],
        "c": [4, 8],
        "b": [8, 9],
    }
    assert data == write({name: tensors[name] for name in "abc"}, {"k": "v"})
    assert write({"a": np.ones(1, ">f4")}, {}) == write({"a": np.ones(1, "<f4")}, {})
    for wrong in (np.ones(1, np.int64), np.ones(1, np.complex64)):
        with pytest.raises(BadTensor, match=r"^cannot store a tensor of type"):
            write({"a": wrong}, {})
    with pytest.raises(BadTensor, match=r"under the name '__metadata__'$"):
        write({"__metadata__": np.ones(1, np.float32)}, {})


def test_a_file_that_nobody_asked_to_compress_is_one_that_others_open():
    data = write({f"layer.{i}.ü": np.ones(1, np.float32) for i in range(50)}, {})

    assert data[4:8] == b"\0" * 4
    assert "layer.49.ü".encode() in data


def test_a_header_is_as_long_as_it_may_be():
    text = b"{}".ljust(MAX_HEADER_BYTES)

    assert read(struct.pack("<Q", len(text)) + text, Limits()) == ({}, {})
    with pytest.raises(BadTensor, match=f"cannot hold a header of {len(text) + 1}"):
        read(struct.pack("<Q", len(text) + 1) + text + b" ", Limits())


def test_counts_are_whole_numbers_of_at_least_zero():
    assert counts([], 0)
    assert counts([0, 1], 2)
    assert not counts([0, 1, 2], 2)
    assert not counts((0, 1), 2)
    assert not counts([0, -1], 2)
    assert not counts([0, True], 2)
