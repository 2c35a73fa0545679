"""A reader of messages written from docs/protocol.md alone, bit by bit: it uses nothing of the project."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import zstandard

NF4 = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation_codecs.json").read_text("utf-8"))["nf4"][
    "levels"
]


def read_by_the_page(data: bytes) -> dict[str, list[float]]:
    """Return the flat values of every tensor, bit by bit, as docs/protocol.md says."""
    stored, plain = struct.unpack("<II", data[:8])
    text = data[8 : 8 + stored]
    header = json.loads(zstandard.decompress(text) if plain else text)
    facts = header.pop("__metadata__")
    body = data[8 + stored :]
    raw = {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}
    if facts["codec_version"] == "1":
        return {name: open_by_the_page(name, header[name], raw, facts) for name in header if "#" not in name}
    return {name: record_by_the_page(one, facts) for name, one in raw.items()}


def open_by_the_page(name: str, entry: dict, raw: dict[str, bytes], facts: dict[str, str]) -> list[float]:
    kind = {"F64": "d", "F32": "f", "F16": "e", "I8": "b"}[entry["dtype"]]
    values = [value[0] for value in struct.iter_unpack("<" + kind, raw[name])]
    if facts["codec"] != "int8":
        return values
    scales = [value[0] for value in struct.iter_unpack("<f", raw[name + "#scales"])]
    return [value * scales[i // int(facts["block"])] / 127 for i, value in enumerate(values)]


def record_by_the_page(record: bytes, facts: dict[str, str]) -> list[float]:
    count = 1
    for side in struct.unpack(f"<{record[1]}I", record[2 : 2 + 4 * record[1]]):
        count *= side
    content = record[2 + 4 * record[1] :]
    content = zstandard.decompress(content) if record[0] else content
    whole = {name: int(text) for name, text in facts.items() if text.isdigit()}
    if not count:
        return []
    if facts["codec"] == "fp32":
        return planes(content, count, "f")[0]
    if facts["codec"] == "int4":
        return nibbles_by_the_page(content, count, whole["block"], lambda code: (code - 8) / 7)
    if facts["codec"] == "nf4":
        return nibbles_by_the_page(content, count, whole["block"], lambda code: NF4[code])
    if facts["codec"] == "levels":
        return levels_by_the_page(content, count, whole)
    return sparse_by_the_page(content, count, facts["codec"], whole)


def nibbles_by_the_page(content: bytes, count: int, block: int, level: Callable[[int], float]) -> list[float]:
    codes = bits(content, 4, count)
    at = (4 * count + 7) // 8
    ratios = content[at : at + -(-count // block)]
    peak = planes(content[at + len(ratios) :], 1, "f")[0][0]
    scale = [0.0 if g == 255 else peak * 2 ** (-g / 16) for g in ratios]
    return [level(code) * scale[i // block] for i, code in enumerate(codes)]


def levels_by_the_page(content: bytes, count: int, whole: dict[str, int]) -> list[float]:
    levels, block = whole["levels"], whole["block"]
    blocks = -(-count // block)
    kept = -(-blocks // whole["of"])
    coded = min(kept * block, count)
    if levels == 3:
        at = -(-coded // 5)
        codes = [byte // 3**place % 3 for byte in content[:at] for place in range(5)][:coded]
    else:
        at = (levels // 2 * coded + 7) // 8
        codes = bits(content, levels // 2, coded)
    each = 2 if levels == 4 else 1
    shares, used = planes(content[at:], each * kept, "e")
    peak = planes(content[at + used :], 1, "f")[0][0]
    places = list(range(blocks))
    if whole["of"] > 1:
        places, _ = positions_by_the_page(content[at + used + 4 :], kept, blocks)
    found = [0.0] * (blocks * block)
    for i, code in enumerate(codes):
        m = [peak * share for share in shares[each * (i // block) :][:each]]
        value = ([0.0, *m, -m[0]] if levels == 3 else [*m, *(-one for one in m)])[code]
        found[places[i // block] * block + i % block] = value
    return found[:count]


def positions_by_the_page(content: bytes, kept: int, count: int) -> tuple[list[int], int]:
    width = max(0, (count // kept).bit_length() - 1)
    unary = kept + ((count - 1) >> width) + 1
    at = (unary + 7) // 8
    low = bits(content[at:], width, kept)
    ones = [place for place, bit in enumerate(bits(content, 1, unary)) if bit]
    return [((one - i) << width) | low[i] for i, one in enumerate(ones)], at + (width * kept + 7) // 8


def sparse_by_the_page(content: bytes, count: int, codec: str, whole: dict[str, int]) -> list[float]:
    chunk, k = whole["chunk"], whole["k"]
    kept = count // chunk * k + -(-(count % chunk) * k // chunk)
    positions, at = positions_by_the_page(content, kept, count)
    found = [0.0] * count
    if codec == "topk":
        values = planes(content[at:], kept, "e" if whole["bits"] == 16 else "f")[0]
    else:
        codes = bits(content[at:], 2, kept)
        at += (2 * kept + 7) // 8
        shares, used = planes(content[at:], 4 * -(-count // chunk), "e")
        peak = planes(content[at + used :], 1, "f")[0][0]
        values = [peak * shares[4 * (place // chunk) + code] for place, code in zip(positions, codes, strict=True)]
    for place, value in zip(positions, values, strict=True):
        found[place] = value
    return found


def bits(data: bytes, width: int, count: int) -> list[int]:
    whole = int.from_bytes(data, "little")
    return [(whole >> (width * i)) & ((1 << width) - 1) for i in range(count)]


def planes(data: bytes, count: int, kind: str) -> tuple[list[float], int]:
    size = struct.calcsize("<" + kind)
    joined = bytes(data[plane * count + i] for i in range(count) for plane in range(size))
    return [value[0] for value in struct.iter_unpack("<" + kind, joined)], size * count
