"""What an adapter is worth on text that nobody trained on: nats per token, and how often the label word is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from potluck.aggregation import LowRank
from potluck.client.readers import Sample
from potluck.client.training import bases
from potluck.client.training.adapters import detach, mount
from potluck.client.training.batches import IGNORED, Batch, collate, pack, tokenize

ROWS: Final = 4  # at a time
MOST: Final = 1_024  # tokens of running text of a volunteer's that are measured


class Score(NamedTuple):
    """Sums, so that scores of several texts add up."""

    nats: float
    """Of everything that would be trained on: all of a text, the label word and the end of a question."""
    tokens: int
    right: int = 0
    asked: int = 0

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of the samples whose label word was the likeliest of the label words."""
        return self.right / max(1, self.asked)


def total(scores: Sequence[Score]) -> Score:
    """Return the score of all texts together."""
    return Score(*(sum(column) for column in zip(*scores, strict=True)))


@dataclass(frozen=True, slots=True)
class Judge:
    """A base model in memory that adapters are put on, to be measured."""

    model: Any
    tokenizer: Any
    row: int
    words: tuple[int, ...]
    """First tokens of the label words; none for running text."""

    @classmethod
    def of(cls, base: bases.Base, row: int, words: Sequence[str], dtype: torch.dtype) -> "Judge":
        """Load *base*; *row* is how many tokens are looked at together."""
        model, tokenizer = bases.load(base, torch.device("cpu"), dtype)
        first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
        if len(set(first)) != len(first):
            raise ValueError(f"two of {words} begin with the same token, so the last position cannot tell them apart")
        return cls(model, tokenizer, row, tuple(first))

    def score(self, adapter: Mapping[str, LowRank], samples: Sequence[Sample]) -> Score:
        """Return what *adapter* makes of *samples*; an empty one is the base."""
        rows = pack([tokenize(sample, self.tokenizer) for sample in samples], self.row, rest=True)
        if not self.words:
            rows = rows[: MOST // self.row]
        adapted = mount(self.model, adapter) if any(term.rank for term in adapter.values()) else None
        try:
            with torch.inference_mode():
                return total([self._rows(collate(rows[i : i + ROWS], 0)) for i in range(0, len(rows), ROWS)])
        finally:
            if adapted is not None:
                detach(adapted)

    def _rows(self, batch: Batch) -> Score:
        inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}
        hidden = self.model.model(**inputs).last_hidden_state
        wanted = batch.labels != IGNORED
        labels = batch.labels[wanted]
        head = self.model.get_output_embeddings().weight
        nats = float(cross_entropy((hidden[wanted] @ head.T).float(), labels, reduction="sum"))
        if not self.words:
            return Score(nats, len(labels))
        first = wanted & ~wanted.roll(1, 1)  # a sample's answer begins where its prompt ends, never in column 0
        guesses = (hidden[first] @ head[list(self.words)].T).float().argmax(1)
        truth = batch.labels[first]
        right = int((torch.tensor(self.words)[guesses] == truth).sum())
        return Score(nats, len(labels), right, len(truth))
