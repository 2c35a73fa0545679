"""The records that differential privacy protects one of: each is one row, and no row holds anything of another.

What is longer than a row is cut, not spread over several rows: a record in two rows would count twice.  Equal records
are one record.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from potluck.client.readers import Sample
from potluck.client.training.batches import Batch, Tokens, collate, tokenize
from potluck.client.training.errors import NoBatches


@final
@dataclass(frozen=True, slots=True)
class Records:
    """Different rows of tokens, each of which has something to learn, in the order of their text."""

    rows: tuple[Tokens, ...]
    pad_id: int

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, drawn: Sequence[int]) -> Batch:
        """Return the records with the numbers *drawn* as one batch, a row for each."""
        return collate([[self.rows[i]] for i in drawn], self.pad_id)

    def by_length(self, drawn: Iterable[int]) -> list[int]:
        """Return *drawn*, the longest first: rows of like length waste little padding."""
        return sorted(drawn, key=lambda i: -len(self.rows[i].ids))


def records_of(samples: Sequence[Sample], tokenizer: Any, max_tokens: int) -> Records:  # noqa: ANN401 - untyped
    """Return *samples* as records of at most *max_tokens* tokens: of plain text the beginning, of a chat the end.

    Raises:
        NoBatches: no sample holds a token that could be predicted from one before it.
    """
    rows = dict.fromkeys(_cut(tokenize(sample, tokenizer), max_tokens) for sample in samples)
    usable = tuple(row for row in rows if any(row.trained[1:]))
    if not usable:
        raise NoBatches(
            f"{len(samples)} samples give nothing to learn in rows of {max_tokens} tokens",
            fix="add longer text, or raise data.max_tokens",
        )
    return Records(usable, tokenizer.pad_token_id or 0)


def _cut(sample: Tokens, most: int) -> Tokens:
    """Return at most *most* tokens of *sample*."""
    if all(sample.trained):
        return Tokens(sample.ids[:most], sample.trained[:most])
    return Tokens(sample.ids[-most:], sample.trained[-most:])
