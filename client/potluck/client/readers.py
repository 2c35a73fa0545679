"""One reader for every kind of file: bytes on disk to samples, or to rows that are no samples and why."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

FORMATS: Final = ("auto", "text", "prompt", "chat")
ROLES: Final = frozenset({"system", "user", "assistant"})
BLOCK: Final = 300  # paragraphs are joined until a sample has so many characters
LONGEST: Final = 4000  # and a paragraph longer than this is cut at a space
MAX_UNPACKED_BYTES: Final = 512 * 2**20  # a small parquet file may unpack to something huge


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a sample: plain text has no role; *trained* says whether the model learns to write it."""

    role: str
    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """Plain text (one part), a prompt and its completion (two parts without roles), or a chat (parts with roles)."""

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All parts as a person would read them."""
        return (
            "\n".join(f"{part.role}: {part.text}" for part in self.parts)
            if self.is_chat
            else "".join(part.text for part in self.parts)
        )

    @property
    def is_chat(self) -> bool:
        """Whether the model's chat template belongs around the parts."""
        return any(part.role for part in self.parts)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no sample: where in the file, and why, without a word of its text."""

    where: str
    reason: str


Rows = Iterator[Sample | BadRow]


def text_file(path: Path, form: str) -> Rows:
    """Read plain text or Markdown as samples of a few paragraphs each."""
    if form not in {"auto", "text"}:
        yield BadRow("(whole file)", f"plain text, where the run wants {form}")
        return
    blocks: list[Sample | BadRow] = list(paragraphs(_decode(path)))
    yield from blocks or [BadRow("(whole file)", "empty: only white space")]


def jsonl_file(path: Path, form: str) -> Rows:
    """Read one JSON object a line."""
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
                yield BadRow(f"line {number}", f"malformed JSON: {reason}")
                continue
            yield from row_samples(row, form, f"line {number}")


def csv_file(path: Path, form: str) -> Rows:
    """Read a table with a heading line."""
    csv.field_size_limit(MAX_UNPACKED_BYTES)  # the default, 128 KiB, refuses a long text
    table = csv.DictReader(_decode(path).splitlines(keepends=True))
    try:
        for row in table:
            yield from row_samples(row, form, f"line {table.line_num}")
    except csv.Error as error:
        yield BadRow(f"line {table.line_num} and what follows", f"malformed CSV: {error}")


def parquet_file(path: Path, form: str) -> Rows:
    """Read a parquet table, a batch of rows at a time."""
    import pyarrow.parquet  # noqa: PLC0415 - slow to load, and only parquet needs it

    with pyarrow.parquet.ParquetFile(path) as table:
        size = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
        if size > MAX_UNPACKED_BYTES:
            yield BadRow("(whole file)", f"too large: unpacks to {size} bytes, the limit is {MAX_UNPACKED_BYTES}")
            return
        known = {"text", "prompt", "completion", "messages"}
        columns = [name for name in table.schema_arrow.names if name in known]
        number = 0
        for batch in table.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield from row_samples(row, form, f"row {number}")


READERS: Final[Mapping[str, Callable[[Path, str], Rows]]] = MappingProxyType(
    {".txt": text_file, ".md": text_file, ".jsonl": jsonl_file, ".csv": csv_file, ".parquet": parquet_file}
)


def row_samples(row: object, form: str, where: str) -> Rows:
    """Turn one *row* of a table into its samples; with *form* "auto" its columns say what it is."""
    if not isinstance(row, dict):
        yield BadRow(where, "not an object with named fields")
        return
    here = {name for name, value in row.items() if value is not None}
    kind = form if form != "auto" else next((kind for kind, names in COLUMNS.items() if names <= here), "")
    missing = COLUMNS[kind] - here if kind else set()
    if not kind or missing:
        wanted = COLUMNS[kind] if kind else {"text", "or prompt and completion", "or messages"}
        yield BadRow(where, f"needs the columns {', '.join(sorted(wanted, key=len))}")
    elif kind == "chat":
        yield _chat(row["messages"], where)
    elif not all(isinstance(row[name], str) for name in COLUMNS[kind]):
        yield BadRow(where, f"{' and '.join(sorted(COLUMNS[kind]))} must be text")
    elif kind == "text":
        blocks: list[Sample | BadRow] = list(paragraphs(row["text"]))
        yield from blocks or [BadRow(where, "empty")]
    elif not row["completion"].strip():
        yield BadRow(where, "empty completion: nothing to learn")
    else:
        yield Sample((Part("", row["prompt"], trained=False), Part("", row["completion"], trained=True)))


COLUMNS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "chat": frozenset({"messages"}),
        "prompt": frozenset({"prompt", "completion"}),
        "text": frozenset({"text"}),
    }
)


def paragraphs(text: str) -> Iterator[Sample]:
    """Cut *text* at blank lines into samples of at least BLOCK characters, the last one excepted.

    Whole paragraphs stay together, so that a sample reads as it was written; a single one over LONGEST is cut at a
    space.  One big file thus gives many samples.
    """
    block: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        for piece in _pieces(paragraph.strip("\n")):
            block.append(piece)
            if sum(map(len, block)) >= BLOCK:
                yield _plain(block)
                block = []
    if any(block):
        yield _plain(block)


def _pieces(paragraph: str) -> Iterator[str]:
    while len(paragraph) > LONGEST:
        end = paragraph.rfind(" ", 1, LONGEST)
        end = end if end > 0 else LONGEST
        yield paragraph[:end]
        paragraph = paragraph[end:]
    yield paragraph


def _plain(block: list[str]) -> Sample:
    return Sample((Part("", "\n\n".join(block), trained=True),))


def _chat(messages: object, where: str) -> Sample | BadRow:
    if not isinstance(messages, list) or not messages:
        return BadRow(where, "messages must be a list of turns")
    parts = []
    for turn in messages:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            return BadRow(where, f"every turn needs a role of {', '.join(sorted(ROLES))} and content that is text")
        parts.append(Part(role, content, trained=role == "assistant"))
    if not any(part.trained and part.text.strip() for part in parts):
        return BadRow(where, "no assistant turn: nothing to learn")
    return Sample(tuple(parts))


def _decode(path: Path) -> str:
    """Return the file as text: UTF-8, with or without a byte order mark, line ends made one.  Raises on other bytes."""
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
