"""Text to rows of tokens, without waste: samples are packed into full rows that do not see each other.

Positions count from 0 in every sample of a row; transformers takes a position that does not follow the one before it
for the start of another sequence and lets nothing attend across.  A row therefore computes exactly what its samples
would compute one by one.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Final

import torch

from potluck.client.readers import Sample
from potluck.client.training.errors import BadBase, NoBatches

IGNORED: Final = -100  # what PyTorch's cross-entropy leaves out
ATTENTION: Final = 512
"""Length of a row at which attention costs about as much as all else: between the small bases and SmolLM2."""
BOXES_OPEN: Final = 64  # rows that first-fit looks at; keeps packing linear in the number of samples


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sample as the model sees it: token ids, and which of them it learns to write."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of equal length: ids, labels (IGNORED where nothing is learned) and positions, each (rows, length) int64.

    labels[i, j] is the token that position j must predict, so nothing needs to be shifted.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor

    @property
    def trained_tokens(self) -> int:
        """How many predictions the loss counts."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on *device*."""
        return Batch(self.ids.to(device), self.labels.to(device), self.positions.to(device))


def tokenize(sample: Sample, tokenizer: Any) -> Tokens:  # noqa: ANN401 - transformers is untyped
    """Return *sample* as tokens: a chat in the tokenizer's template, anything else as it is, ended by the end token."""
    if sample.is_chat and tokenizer.chat_template:
        return _chat(sample, tokenizer)
    ids: list[int] = []
    trained: list[bool] = []
    for part in sample.parts:
        text = f"{part.role}: {part.text}\n" if part.role else part.text
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        trained += [part.trained] * len(piece)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
        trained.append(True)
    return Tokens(tuple(ids), tuple(trained))


def pack(samples: Sequence[Tokens], max_tokens: int, *, rest: bool = False) -> list[list[Tokens]]:
    """Return rows of at most *max_tokens* tokens.

    Where everything is trained on, as in plain text, samples are laid end to end and cut, so rows are full.  A sample
    with a prompt stays whole and goes into the first row that has room, of the last BOXES_OPEN; one longer than a row
    loses its beginning, since its end is what is learned.  *rest* keeps what does not fill a last row of text.
    """
    if all(all(sample.trained) for sample in samples):
        return _stream(samples, max_tokens, rest=rest)
    return _first_fit(chain.from_iterable(_pieces(sample, max_tokens) for sample in samples), max_tokens, BOXES_OPEN)


def laid_out(rows: Sequence[Sequence[Tokens]]) -> Sequence[Sequence[Tokens]]:
    """Return the samples of *rows* in as many rows of such a length as cost least.

    Samples do not see each other, so the layout changes nothing but time: attention looks at every pair of places in a
    row, and short samples in a long row are mostly pairs that do not count.
    """
    samples = sorted(chain.from_iterable(rows), key=lambda sample: -len(sample.ids))
    if len(samples) == len(rows):
        return rows
    longest, whole = len(samples[0].ids), max(sum(len(sample.ids) for sample in row) for row in rows)
    lengths = [longest << doubled for doubled in range(16) if longest << doubled < whole]
    layouts = [_first_fit(samples, length, len(samples)) for length in lengths] + [rows]
    return min(layouts, key=_cost)


def collate(rows: Sequence[Sequence[Tokens]], pad_id: int) -> Batch:
    """Return *rows* as one batch, as long as its longest row; padding is a sequence of its own, unlearned."""
    length = max(sum(len(sample.ids) for sample in row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    positions = torch.zeros((len(rows), length), dtype=torch.int64)
    for i, row in enumerate(rows):
        ends = list(accumulate(len(sample.ids) for sample in row))
        for sample, end in zip(row, ends, strict=True):
            start = end - len(sample.ids)
            piece = torch.tensor(sample.ids)
            ids[i, start:end] = piece
            positions[i, start:end] = torch.arange(end - start)
            labels[i, start : end - 1] = piece[1:].where(torch.tensor(sample.trained[1:], dtype=torch.bool), IGNORED)
        positions[i, ends[-1] :] = torch.arange(length - ends[-1])
    return Batch(ids, labels, positions)


@dataclass(frozen=True, slots=True)
class Batches:
    """An endless, repeatable sequence of batches: number *i* depends on the samples, the seed and *i* alone."""

    samples: tuple[Tokens, ...]
    max_tokens: int
    rows: int
    seed: int
    pad_id: int

    def after(self, step: int) -> Iterator[Batch]:
        """Yield batch number *step* and all that follow."""
        for rows in self.rows_after(step):
            yield collate(laid_out(rows), self.pad_id)

    def rows_after(self, step: int) -> Iterator[list[list[Tokens]]]:
        """Yield the rows of batch number *step* and of all that follow.

        Each epoch has all samples in an order of its own, drawn from (seed, epoch).  A batch may take its rows from the
        end of one epoch and the start of the next.
        """
        skip = step * self.rows
        waiting: list[list[Tokens]] = []
        epoch = 0
        while True:
            packed = self._epoch(epoch)
            epoch += 1
            skipped = min(skip, len(packed))
            skip -= skipped
            waiting += packed[skipped:]
            while len(waiting) >= self.rows:
                yield waiting[: self.rows]
                waiting = waiting[self.rows :]

    def _epoch(self, epoch: int) -> list[list[Tokens]]:
        order = list(self.samples)
        random.Random(f"{self.seed}/{epoch}").shuffle(order)  # noqa: S311 - not a secret
        return pack(order, self.max_tokens)


def make(samples: Sequence[Sample], tokenizer: Any, *, max_tokens: int, rows: int, seed: int) -> Batches:  # noqa: ANN401
    """Tokenize *samples* and return their batches of *rows* rows of at most *max_tokens* tokens.

    Raises:
        NoBatches: no sample holds a token that could be predicted from one before it.
    """
    tokens = tuple(tokenize(sample, tokenizer) for sample in samples)
    usable = tuple(sample for sample in tokens if any(sample.trained[-max_tokens:][1:]))
    if not usable:
        raise NoBatches(
            f"{len(samples)} samples give nothing to learn in rows of {max_tokens} tokens",
            fix="add longer text, or raise data.max_tokens",
        )
    return Batches(usable, max_tokens, rows, seed, tokenizer.pad_token_id or 0)


def _first_fit(samples: Iterable[Tokens], length: int, boxes: int) -> list[list[Tokens]]:
    """Return rows of at most *length* tokens, each sample in the first of the last *boxes* rows that has room."""
    rows: list[list[Tokens]] = []
    room: list[int] = []
    for sample in samples:
        size = len(sample.ids)
        first = max(0, len(rows) - boxes)
        place = next((i for i in range(first, len(rows)) if room[i] >= size), None)
        if place is None:
            rows.append([sample])
            room.append(length - size)
        else:
            rows[place].append(sample)
            room[place] -= size
    return rows


def _cost(rows: Sequence[Sequence[Tokens]]) -> float:
    """Return what a batch of *rows* costs, in places: each once, and more the more others it attends to."""
    length = max(sum(len(sample.ids) for sample in row) for row in rows)
    return len(rows) * length * (1 + length / ATTENTION)


def _stream(samples: Sequence[Tokens], max_tokens: int, *, rest: bool) -> list[list[Tokens]]:
    """Lay *samples* end to end and cut them into rows; the last row is dropped if it is short and not alone."""
    ids = list(chain.from_iterable(sample.ids for sample in samples))
    pieces = [tuple(ids[i : i + max_tokens]) for i in range(0, len(ids), max_tokens)]
    whole = [piece for piece in pieces if rest or len(piece) == max_tokens] or pieces
    return [[Tokens(piece, (True,) * len(piece))] for piece in whole]


def _pieces(sample: Tokens, max_tokens: int) -> list[Tokens]:
    """Return *sample* in pieces that fit into a row: plain text cut, anything else without its beginning."""
    starts = range(0, len(sample.ids), max_tokens) if all(sample.trained) else [max(0, len(sample.ids) - max_tokens)]
    return [Tokens(sample.ids[i : i + max_tokens], sample.trained[i : i + max_tokens]) for i in starts]


def _chat(sample: Sample, tokenizer: Any) -> Tokens:  # noqa: ANN401
    """Find each turn's tokens by rendering the chat up to it: templates seldom mark what the assistant wrote.

    What the template puts before an assistant's words (its heading) is part of the prompt that generation starts from,
    so it is not trained on; the mark that ends a turn is.
    """
    turns = [{"role": part.role, "content": part.text} for part in sample.parts]
    ids: list[int] = []
    trained: list[bool] = []
    before = ""
    for i, part in enumerate(sample.parts):
        after = tokenizer.apply_chat_template(turns[: i + 1], tokenize=False)
        prompt = tokenizer.apply_chat_template(turns[:i], tokenize=False, add_generation_prompt=True) if i else ""
        heading = prompt if part.trained and after.startswith(prompt) else before
        if not after.startswith(before):
            raise BadBase("the chat template rewrites earlier turns", fix="use another base model, or plain text")
        for text, learn in ((heading[len(before) :], False), (after[len(heading) :], part.trained)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            trained += [learn] * len(piece)
        before = after
    return Tokens(tuple(ids), tuple(trained))
