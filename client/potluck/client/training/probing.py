"""How well an adapter predicts an operator's text: a process that a coordinator starts beside itself and asks.

Measured as a volunteer measures held-out text, by the same code.  One JSON object a line, both ways; see the
coordinator's evaluation, which is the other end.  Ends when its input does.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self, TextIO, final

import torch

from potluck.aggregation.errors import PotluckError
from potluck.client import data
from potluck.client.starts import adapter_at
from potluck.client.training import bases
from potluck.client.training.adapters import detach, mount
from potluck.client.training.errors import OutOfMemory
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.local import base_of
from potluck.wire.recipe import Recipe

TOKENS: Final = 16_384
"""Measured at the most: about a minute for 135 million parameters on two cores."""
LONG: Final = 8
"""Characters for every one of them: more than a token takes on average, in any language that a tokenizer knows."""
NICE: Final = 10
"""Lowered by so much: the coordinator that asks has calls to answer meanwhile."""


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """A base model in memory, and the rows that adapters are measured on: the same ones every time."""

    recipe: Recipe
    model: Any
    tokenizer: Any
    samples: tuple[data.Sample, ...]

    @classmethod
    def open(cls, recipe: Recipe, text: Path, cache: Path) -> Self:
        """Read *text* and load the recipe's base model.

        Raises:
            NoData: there is no text.
            NoBase, BadBase: the base model is not here, or another one.
        """
        samples = chosen(data.read(text, recipe.data.format).samples)
        device = bases.pick_device()
        model, tokenizer = bases.load(base_of(recipe, cache), device, bases.pick_dtype(device))
        return cls(recipe, model, tokenizer, samples)

    @property
    def rows(self) -> int:
        """Rows that are measured at the most."""
        return max(1, TOKENS // self.recipe.data.max_tokens)

    @property
    def digest(self) -> str:
        """SHA-256 over the samples, in hex, with the base model and the shape of the rows."""
        total = sha256(f"{self.recipe.model.digest}/{self.recipe.data.max_tokens}/{self.rows}".encode())
        for sample in self.samples:
            for part in sample.parts:
                total.update(repr((part.role, part.text, part.trained)).encode())
        return total.hexdigest()

    def measure(self, adapter: Path | None) -> tuple[float, int]:
        """Return (nats per token, tokens) with the adapter in the blob at *adapter*, or of the base model alone.

        Raises:
            BadTensor, BadAdapter: the blob is damaged, or is of another base model.
            OutOfMemory: a row does not fit into this machine.
        """
        found = {} if adapter is None else adapter_at(adapter, self.recipe)
        moving = {name: term for name, term in found.items() if term.rank and term.b.any() and term.a.any()}
        model = mount(self.model, moving) if moving else self.model
        try:
            return held_out_loss(model, self.tokenizer, self.samples, self.recipe.data.max_tokens, max_rows=self.rows)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"the probe does not fit: {error}", fix="use a machine with more memory") from None
        finally:
            if moving:
                detach(model)


def chosen(samples: Sequence[data.Sample]) -> tuple[data.Sample, ...]:
    """Return samples worth about TOKENS tokens, drawn from all of them by the SHA-256 of their text."""
    taken: list[data.Sample] = []
    characters = 0
    for sample in sorted(samples, key=lambda one: sha256(one.text.encode("utf-8", "surrogatepass")).digest()):
        if characters >= LONG * TOKENS:
            break
        taken.append(sample)
        characters += len(sample.text)
    return tuple(taken)


def answers(lines: Iterable[str]) -> Iterator[Mapping[str, object]]:
    """Yield what every line is answered by; the first names the recipe, the text and the cache."""
    probe: Probe | None = None
    for line in lines:
        try:
            asked = json.loads(line)
            if probe is None:
                probe = Probe.open(Recipe.parse(asked["recipe"]), Path(asked["text"]), Path(asked["cache"]))
                _, tokens = probe.measure(None)
                yield {"digest": probe.digest, "tokens": tokens}
            else:
                loss, tokens = probe.measure(Path(asked["adapter"]) if asked["adapter"] else None)
                yield {"loss": loss if math.isfinite(loss) else None, "tokens": tokens}
        except PotluckError as error:
            notes = [note.removeprefix("fix: ") for note in getattr(error, "__notes__", [])]
            yield {"error": str(error), "fix": "; ".join(notes)}


def main(given: TextIO, said: TextIO) -> None:
    """Answer until there are no more questions."""
    for answer in answers(given):
        said.write(json.dumps(answer) + "\n")
        said.flush()


if __name__ == "__main__":
    if sys.platform != "win32":
        os.nice(NICE)
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print; only answers go where they are read
    main(sys.stdin, own)
