"""A small real language model, and many LoRA clients that train on it side by side in one process.

The base is a byte-level Llama of 0.36 million parameters, trained from scratch on the language reference that every
CPython carries as `pydoc_data.topics`, until it is a language model of technical English.  Each client is the leading
role of one of Shakespeare's plays, so what clients have to teach is another English, in which they partly agree.

All clients of a round share one forward and one backward pass: every linear layer holds the factors of each, a
client's loss reaches its own factors only, and AdamW works entry by entry.  So the numbers are those of clients that
train by themselves.
"""

import hashlib
import pydoc_data.topics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaConfig, LlamaForCausalLM

from potluck.aggregation import LowRank, Update, start
from potluck.simulations.texts import pick, plays, shakespeare

Text = NDArray[np.uint8]
CAST: Final = (
    "hamlet/HAMLET",
    "henry-v/KING HENRY V",
    "othello/IAGO",
    "measure-for-measure/DUKE VINCENTIO",
    "timon-of-athens/TIMON",
    "richard-ii/KING RICHARD II",
    "antony-and-cleopatra/MARK ANTONY",
    "titus-andronicus/TITUS ANDRONICUS",
    "king-lear/KING LEAR",
    "as-you-like-it/ROSALIND",
    "richard-iii/GLOUCESTER",
    "julius-caesar/BRUTUS",
    "macbeth/MACBETH",
    "the-tempest/PROSPERO",
    "a-winter-s-tale/LEONTES",
)
"""The clients: 26 to 61 thousand bytes each."""
ROOT: Final = "henry-iv-part-1/PRINCE HENRY"
"""Who speaks the trusted text that a coordinator may hold: the client after the last of the cast."""
ROOT_SHARE: Final = 0.01
"""Of all that the cast says."""
HELD_OUT: Final = 0.2
CONTEXT: Final = 64
BYTES: Final = 256
LAYERS: Final = 3
HIDDEN: Final = 96
BASE_STEPS: Final = 400
BASE_ROWS: Final = 16
BASE_RATE: Final = 3e-3
JUDGED_ROWS: Final = 16
"""Rows of held-out text a client on which every adapter is judged; always the same."""


@dataclass(frozen=True, slots=True)
class Words:
    """Bytes to train and to judge on: one array a client, and the trusted text behind the last."""

    train: tuple[Text, ...]
    held_out: tuple[Text, ...]


def words(cache: Path) -> Words:
    """Return the clients' text; the last fifth of everybody's speeches is held out."""
    roles = shakespeare(plays(cache, print))
    *own, root = [as_bytes(roles[role]) for role in pick(roles, [*CAST, ROOT])]
    cuts = [round(len(text) * (1 - HELD_OUT)) for text in own]
    trusted = root[: round(ROOT_SHARE * sum(map(len, own)))]
    return Words(
        (*(text[:cut] for text, cut in zip(own, cuts, strict=True)), trusted),
        tuple(text[cut:] for text, cut in zip(own, cuts, strict=True)),
    )


def technical() -> Text:
    """Return the text that the base is trained on: 465 thousand bytes in Python 3.11."""
    return as_bytes(pydoc_data.topics.topics.values())


def as_bytes(speeches: Iterable[str]) -> Text:
    """Return *speeches* as one array of bytes, parted by blank lines."""
    return np.frombuffer("\n\n".join(speeches).encode(), np.uint8)


def rows(text: Text, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Return (count, CONTEXT + 1) bytes of *text* from random places."""
    places = rng.integers(0, len(text) - CONTEXT, count)
    return torch.from_numpy(np.stack([text[i : i + CONTEXT + 1] for i in places]).astype(np.int64))


class Layer(torch.nn.Module):
    """A frozen linear layer, and beside it the trainable factors of each of n clients: b (n, d, r), a (n, r, k)."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base.weight.detach()
        self.weight = self.base
        self.b: torch.Tensor | None = None
        self.a: torch.Tensor | None = None
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; the rows of *x* (n·rows, tokens, k) belong to the clients in turn."""
        y = linear(x, self.weight)
        if self.b is None or self.a is None:
            return y
        each = x.reshape(len(self.b), -1, x.shape[-1]) @ self.a.mT @ self.b.mT
        return y + self.scale * each.reshape(y.shape)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What clients do in a round."""

    rank: int = 8
    scale: float = 2.0
    steps: int = 6
    rows: int = 3
    rate: float = 5e-3


@dataclass(frozen=True, slots=True)
class SmallLM:
    """The base in memory with everybody's text."""

    model: LlamaForCausalLM
    layers: Mapping[str, Layer]
    words: Words
    lesson: Lesson = field(default_factory=Lesson)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d, k) of every module that gets an adapter."""
        return {name: (layer.base.shape[0], layer.base.shape[1]) for name, layer in self.layers.items()}

    def train(self, published: Mapping[str, LowRank], clients: Sequence[int], init: str, seed: int) -> list[Update]:
        """Return one round's updates of *clients*, trained from *published*.

        With the init "orthonormal" they train B alone, against the A that was published.
        """
        lesson, trains_a = self.lesson, init != "orthonormal"
        begun = start(published, self.shapes, init=init, rank=lesson.rank, scale=lesson.scale, seed=seed)
        learned = []
        for name, layer in self.layers.items():
            first, tail = begun.trainable[name], begun.tail[name]
            layer.weight = layer.base + torch.from_numpy(tail.dense().astype(np.float32))
            layer.b = torch.from_numpy(first.b).repeat(len(clients), 1, 1).requires_grad_()
            layer.a = torch.from_numpy(first.a).repeat(len(clients), 1, 1).requires_grad_(trains_a)
            layer.scale = first.scale
            learned += [layer.b, layer.a] if trains_a else [layer.b]
        optimiser = torch.optim.AdamW(learned, lr=lesson.rate, weight_decay=0.0)
        draws = [np.random.default_rng((seed, client)) for client in clients]
        for _ in range(lesson.steps):
            batch = [rows(self.words.train[i], lesson.rows, rng) for i, rng in zip(clients, draws, strict=True)]
            optimiser.zero_grad()
            (self._loss(torch.cat(batch)) * len(clients)).backward()  # the mean over each client's own bytes
            optimiser.step()
        return [self._update(begun.trainable, place) for place in range(len(clients))]

    def losses(self, published: Mapping[str, LowRank], clients: Sequence[int]) -> list[float]:
        """Return each client's held-out loss under *published*, in nats per byte."""
        for name, layer in self.layers.items():
            layer.b = layer.a = None
            layer.weight = layer.base
            if name in published:
                layer.weight = layer.base + torch.from_numpy(published[name].dense().astype(np.float32))
        judged = [rows(self.words.held_out[i], JUDGED_ROWS, np.random.default_rng(i)) for i in clients]
        with torch.no_grad():
            return [float(self._loss(batch)) for batch in judged]

    def own_loss(self) -> float:
        """Return the bare base's loss on its own kind of text, in nats per byte."""
        self.losses({}, [])
        with torch.no_grad():
            return float(self._loss(rows(technical(), 64, np.random.default_rng(0))))

    def unigram_loss(self, clients: Sequence[int]) -> float:
        """Return what knowing how often each byte occurs, and no more, would say of the held-out text."""
        counts = np.bincount(np.concatenate(self.words.train), minlength=BYTES) + 1.0
        odds = np.log(counts / counts.sum())
        return float(-np.mean([odds[self.words.held_out[i]].mean() for i in clients]))

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self.model(batch[:, :-1], use_cache=False).logits
        return cross_entropy(logits.reshape(-1, BYTES), batch[:, 1:].reshape(-1))

    def _update(self, begun: Mapping[str, LowRank], place: int) -> Update:
        trained = {}
        for name, layer in self.layers.items():
            b, a = layer.b[place].detach().numpy().copy(), layer.a[place].detach().numpy().copy()
            trained[name] = LowRank(b, a, layer.scale)
        return Update(trained, begun, examples=self.lesson.steps * self.lesson.rows, steps=self.lesson.steps)


def small_lm(cache: Path, lesson: Lesson) -> SmallLM:
    """Return the base, trained now (half a minute) or read from *cache*, ready for clients."""
    model = LlamaForCausalLM(config())
    base = technical()
    digest = hashlib.sha256(base.tobytes()).hexdigest()[:12]
    file = cache / f"small-lm-{LAYERS}x{HIDDEN}-{BASE_STEPS}-{digest}.safetensors"
    if not file.exists():
        save_file(trained_base(base), file)
    model.load_state_dict(load_file(file))
    model.lm_head.weight = model.model.embed_tokens.weight
    model.requires_grad_(requires_grad=False)
    layers = {}
    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, last = name.rpartition(".")
            layers[name] = Layer(module)
            setattr(model.model.get_submodule(parent), last, layers[name])
    return SmallLM(model, layers, words(cache), lesson)


def trained_base(text: Text) -> dict[str, Any]:
    """Train the base from scratch on *text* and return its weights; the same on every run of one machine."""
    torch.manual_seed(0)
    model, rng = LlamaForCausalLM(config()), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=BASE_RATE, weight_decay=0.1)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimiser, BASE_RATE, total_steps=BASE_STEPS)
    for step in range(BASE_STEPS):
        batch = rows(text, BASE_ROWS, rng)
        loss = cross_entropy(model(batch[:, :-1], use_cache=False).logits.reshape(-1, BYTES), batch[:, 1:].reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        pace.step()
        if step % 50 == 0:
            print(f"base: step {step} of {BASE_STEPS}, {loss.item():.3f} nats per byte", flush=True)
    return {name: value.clone() for name, value in model.state_dict().items()}


def config() -> LlamaConfig:
    """Return the shape of the base: 0.36 million parameters, one token a byte."""
    return LlamaConfig(
        vocab_size=BYTES,
        hidden_size=HIDDEN,
        intermediate_size=264,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
