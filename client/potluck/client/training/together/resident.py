"""What stays in memory from one client to the next: the frozen base model, and every client's text as tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import torch

from potluck.aggregation.pipeline import named
from potluck.client.training import bases
from potluck.client.training.batches import Batches, Tokens, make, pack, tokenize
from potluck.client.training.local import HELD_OUT_TOKENS, base_of, texts_of
from potluck.wire.recipe import Recipe

DTYPES: Final[Mapping[str, Callable[[torch.device], torch.dtype]]] = MappingProxyType(
    {
        "native": bases.pick_dtype,
        "bfloat16": lambda _: torch.bfloat16,
        "float32": lambda _: torch.float32,
        "float64": lambda _: torch.float64,
    }
)
"""In what the base model computes, by name; native is what a volunteer's own program picks on this machine."""


@final
@dataclass(frozen=True, slots=True)
class Text:
    """One client's text as tokens: *batches* in no client's order yet, the held-out rows, the samples trained on."""

    batches: Batches
    held_out: tuple[tuple[Tokens, ...], ...]
    examples: int

    @property
    def row(self) -> int:
        """How many tokens a row of it has, about: less than it might where there is too little text for one."""
        return min(self.batches.max_tokens, sum(len(sample.ids) for sample in self.batches.samples))

    def ordered(self, order: int) -> Batches:
        """Return the training batches in the order drawn from *order*."""
        return replace(self.batches, seed=order)


@final
@dataclass(frozen=True, slots=True)
class Resident:
    """The base model of one recipe, frozen, with its tokenizer; texts are read once each."""

    recipe: Recipe
    model: Any
    tokenizer: Any
    texts: dict[Path, Text] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the trained factors are kept in: float32, also beside a bfloat16 base; float64 beside a float64 one."""
        return torch.promote_types(next(self.model.parameters()).dtype, torch.float32)

    def text(self, path: Path) -> Text:
        """Return the text at *path*, split and cut as a volunteer's own program would.

        Raises:
            NoData: there is too little.
            NoBatches: nothing in it could be learned.
        """
        if path not in self.texts:
            self.texts[path] = self._read(path)
        return self.texts[path]

    def _read(self, path: Path) -> Text:
        recipe = self.recipe
        split = texts_of(recipe, path)
        size = recipe.data.max_tokens
        held_out = pack([tokenize(sample, self.tokenizer) for sample in split.held_out], size, rest=True)
        rows = held_out[: max(1, HELD_OUT_TOKENS // size)]
        batches = make(split.train, self.tokenizer, max_tokens=size, rows=recipe.training.batch, seed=0)
        return Text(batches, tuple(tuple(row) for row in rows), len(split.train))


def resident(recipe: Recipe, cache: Path, dtype: str, progress: Callable[[str], None]) -> Resident:
    """Load the recipe's base model, checked against it.

    Raises:
        NoBase: it is nowhere and cannot be fetched.
        BadBase: what is here is another model.
        UnknownName: *dtype* is none of DTYPES.
    """
    pick = named("number format", dtype, DTYPES)
    base = base_of(recipe, cache, progress)
    device = bases.pick_device()
    progress(f"loading {base.name}")
    model, tokenizer = bases.load(base, device, pick(device))
    if model.dtype == torch.float64:
        exact(model)
    return Resident(recipe, model, tokenizer)


def exact(model: Any) -> None:  # noqa: ANN401
    """Let the norms of a float64 *model* compute in float64: transformers' own round to float32 on their way.

    Two engines could otherwise be compared to float32's precision only.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and "variance_epsilon" in vars(module):
            norm = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            model.set_submodule(name, norm.eval())
