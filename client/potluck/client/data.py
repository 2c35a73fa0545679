"""A volunteer's own text, read where it lies and never sent anywhere.

A sample is what the model sees as one piece: a few paragraphs of a text file, a prompt with its completion, or a chat.
What could not be read is listed with the reason, so that a volunteer sees exactly what takes part.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.client.readers import FORMATS, READERS, BadRow, Part, Sample

__all__ = [
    "Dataset",
    "NoData",
    "Part",
    "Preview",
    "Sample",
    "Skipped",
    "Split",
    "UnreadableData",
    "preview",
    "read",
    "split",
]

MAX_FILE_BYTES: Final = 64 * 2**20
SPLIT_SEED: Final = 0  # one for good: a sample that was held out once is never trained on
SHORT: Final = 160  # characters of a sample in a preview


class NoData(PotluckError):
    """There is nothing to train on where it was looked for."""


class UnreadableData(PotluckError):
    """Files are there, and not one sample could be read from them."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or a row that takes no part, and why.  The reason never quotes the text."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read: the samples in the order of their files, and what was left out.  *bytes* is their size on disk."""

    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Split:
    """Two parts without a text in common: one to train on, one only to measure with."""

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a volunteer is shown before saying yes."""

    rows: int
    characters: int
    samples: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def read(path: Path, format: str = "auto", *, max_file_bytes: int = MAX_FILE_BYTES) -> Dataset:  # noqa: A002 - the recipe's word
    """Read the file at *path*, or every file below the folder *path*, in the order of their names.

    One bad file or row never spoils the rest: it is listed in `skipped`.  Hidden files are passed over, and links that
    leave the folder are not followed.

    Raises:
        NoData: nothing is at *path*, or nothing that could be read as data.
        UnreadableData: there are files, and all of them were skipped.
        BadSetting: *format* is not one of FORMATS.
    """
    if format not in FORMATS:
        raise BadSetting(f"data format {format!r} is unknown", fix=f"use one of {', '.join(FORMATS)}")
    if not path.exists():
        raise NoData(f"{path} does not exist", fix="name a file, or a folder with files, that you want to train on")
    root = path.resolve()
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    size = 0
    for file in files(root):
        name = str(file.relative_to(root)) if root.is_dir() else root.name
        reason = refusal(file, root, max_file_bytes)
        if reason:
            skipped.append(Skipped(name, reason))
            continue
        before = len(samples)
        _take(file, name, format, samples, skipped)
        if len(samples) > before:
            size += file.stat().st_size
    if not samples:
        raise _nothing(path, skipped)
    return Dataset(tuple(samples), tuple(skipped), size)


def files(root: Path) -> Iterator[Path]:
    """Yield *root*, if it is a file, or what lies below it, sorted, without hidden files and without entering links."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in sorted([*names, *links]) if not name.startswith("."))


def refusal(file: Path, root: Path, max_file_bytes: int) -> str:
    """Return why *file* is not even opened, or an empty text."""
    try:
        status = file.stat()
        leaves = root.is_dir() and not file.resolve().is_relative_to(root)
    except OSError as error:
        return f"unreadable: {error.strerror or 'broken link'}"
    size = status.st_size
    reasons = {
        "a link that leaves the folder": leaves,
        "a link to a folder": stat.S_ISDIR(status.st_mode),
        "not a regular file": not stat.S_ISREG(status.st_mode),  # opening a pipe would wait for ever
        f"unknown suffix {file.suffix!r}; known are {', '.join(READERS)}": file.suffix.lower() not in READERS,
        "empty": size == 0,
        f"too large: {size} bytes, the limit is {max_file_bytes}": size > max_file_bytes,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def split(samples: Sequence[Sample], held_out: float, seed: int) -> Split:
    """Set about the share *held_out* of *samples* apart, chosen by their content and *seed* alone.

    A sample goes where its SHA-256 says, so equal texts never fall on both sides, and adding a file moves no other
    sample.  Both parts hold at least one sample.

    Raises:
        NoData: there are fewer than two different samples.
        BadSetting: *held_out* is not between 0 and 1.
    """
    if not 0 < held_out < 1:
        raise BadSetting(f"held_out is {held_out}", fix="use a share between 0 and 1, such as 0.1")
    draws = {sample: _draw(sample, seed) for sample in samples}
    if len(draws) < 2:  # noqa: PLR2004 - one for each part
        raise NoData(
            f"{len(draws)} different sample is too little: one part is trained on and one is measured with",
            fix="add more text: at least two paragraphs of 300 characters, or two rows",
        )
    apart = {sample for sample, draw in draws.items() if draw < held_out}
    ordered = sorted(draws, key=lambda sample: draws[sample])
    apart = (apart or {ordered[0]}) - (set() if len(apart) < len(draws) else {ordered[-1]})
    return Split(
        train=tuple(sample for sample in samples if sample not in apart),
        held_out=tuple(sample for sample in samples if sample in apart),
    )


def preview(dataset: Dataset, n: int = 3) -> Preview:
    """Return what *dataset* holds, with its first *n* samples cut to SHORT characters."""
    texts = [" ".join(sample.text.split()) for sample in dataset.samples[:n]]
    return Preview(
        rows=len(dataset.samples),
        characters=sum(len(sample.text) for sample in dataset.samples),
        samples=tuple(text if len(text) <= SHORT else f"{text[: SHORT - 1]}…" for text in texts),
        skipped=dataset.skipped,
    )


def _take(file: Path, name: str, form: str, samples: list[Sample], skipped: list[Skipped]) -> None:
    """Add what *file* holds to *samples*, and what it spoils to *skipped*."""
    try:
        for row in READERS[file.suffix.lower()](file, form):
            if isinstance(row, BadRow):
                skipped.append(Skipped(f"{name} {row.where}", row.reason))
            else:
                samples.append(row)
    except UnicodeDecodeError as error:
        skipped.append(Skipped(name, f"not UTF-8 at byte {error.start}"))
    except OSError as error:
        skipped.append(Skipped(name, f"unreadable: {error.strerror or 'damaged'}"))
    except ValueError as error:
        skipped.append(Skipped(name, f"unreadable: {error}"))


def _draw(sample: Sample, seed: int) -> float:
    """Return a number in [0, 1) that depends on the content of *sample* and on *seed*, the same on every machine."""
    text = "\0".join(f"{part.role}\0{part.text}" for part in sample.parts)
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _nothing(path: Path, skipped: Sequence[Skipped]) -> PotluckError:
    known = ", ".join(READERS)
    if not skipped:
        return NoData(f"{path} holds no files", fix=f"put files ending in {known} there, or name another folder")
    shown = "; ".join(f"{entry.where}: {entry.reason}" for entry in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""  # noqa: PLR2004
    return UnreadableData(
        f"nothing in {path} can be trained on: {shown}{more}",
        fix=f"name a file or folder with text in UTF-8, ending in {known}",
    )
