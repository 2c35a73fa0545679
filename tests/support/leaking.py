"""Victims of the attacks in simulations.leaks: a tiny base, a round that has begun, and somebody's records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potluck.aggregation import LowRank
from potluck.client.accounting import Spending, noise_for
from potluck.client.training.bases import load, resolve, shapes
from potluck.client.training.batches import Batches, Tokens
from potluck.client.training.private import Privately
from potluck.client.training.private_records import Records
from potluck.simulations.leaks.updates import Scene
from potluck.wire.noise import SecretNoise
from potluck.wire.recipe import Adapter, Training
from tiny import random_adapter, tiny_base

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
LETTERS = b"abcdefghijklmnopqrstuvwxyz ,.;'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DELTA = 1e-5


@dataclass(frozen=True)
class Lab:
    """A tiny base in memory, and what everybody starts this round from."""

    model: Any
    both: Scene
    """Both factors move."""
    one: Scene
    """Only B does, as secure sums want it."""


def lab(folder: Path, rank: int = 8, size: float = 0.3) -> Lab:
    """Return a base whose adapter is not at its beginning: B is not zero, or A would have no gradient."""
    base = resolve(str(tiny_base(folder / "tiny", layers=4)), cache=folder / "cache")
    model, _ = load(base, torch.device("cpu"), torch.float32)
    settings = Adapter(rank=rank, alpha=2.0 * rank, targets=TARGETS)
    drawn = random_adapter(shapes(base.folder, TARGETS), rank, seed=3, scale=settings.scale)
    begun = {name: LowRank(term.b * size, term.a * size, term.scale) for name, term in drawn.items()}
    return Lab(model, Scene(model, settings, begun), Scene(model, settings, begun, "b"))


def words_of(text: bytes) -> Tokens:
    """Return *text* as the tiny base sees it: token = byte + 3."""
    return Tokens(tuple(byte + 3 for byte in text), (True,) * len(text))


def strings(count: int, length: int, seed: int) -> list[Tokens]:
    """Return *count* rows of random letters, which nobody can guess and a model has to learn by heart."""
    rng = np.random.default_rng(seed)
    return [words_of(bytes(rng.choice(list(LETTERS), length).tolist())) for _ in range(count)]


def batches(rows: list[Tokens], batch: int) -> Batches:
    """Return *rows* as training takes them, *batch* at a time."""
    return Batches(tuple(rows), len(rows[0].ids), batch, seed=5, pad_id=0)


def privately(rows: list[Tokens], epsilon: float, training: Training, clip: float = 0.5, seed: int = 0) -> Privately:
    """Return how *rows* are trained on with all of (epsilon, DELTA) spent in this one round."""
    wanted = Spending(len(rows), training.batch, 1.0, training.steps)
    noise = noise_for(epsilon, DELTA, wanted, 1)
    spending = Spending(len(rows), training.batch, noise, training.steps)
    return Privately(Records(tuple(rows), 0), spending, clip, SecretNoise(seed.to_bytes(32)))
