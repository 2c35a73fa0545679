"""Updates of one victim, made by the code that volunteers run, as each protection lets a coordinator see them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import numpy as np

from potluck.aggregation import LowRank, deltas
from potluck.aggregation.lowrank import Array
from potluck.aggregation.secure.ring import Ring, centred, clipped, quantised
from potluck.aggregation.tensors import Moves
from potluck.client.training.adapters import attach, detach, factors, trained_parameters
from potluck.client.training.batches import Batches, Tokens, collate
from potluck.client.training.loop import train
from potluck.client.training.losses import loss_sum
from potluck.client.training.private import Privately, train_privately
from potluck.wire.recipe import Adapter, Training

Update = Mapping[str, Array]
"""Changes of factors, by "module.lora_A" and "module.lora_B"."""


@final
@dataclass(frozen=True, slots=True)
class Scene:
    """What the attacker knows of a round: the base model, what everybody starts from, and which factors move."""

    model: Any
    adapter: Adapter
    begun: Mapping[str, LowRank]
    moves: Moves = "both"

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """Lend the model with the round's start on it."""
        adapted = attach(self.model, self.begun, {}, self.adapter, self.moves)
        try:
            yield adapted
        finally:
            detach(adapted)


def gradient(scene: Scene, rows: Sequence[Tokens]) -> dict[str, Array]:
    """Return the gradient of the mean loss of *rows*: what a client would send that sends every step as it is."""
    with scene.lent() as adapted:
        batch = collate([[row] for row in rows], pad_id=0)
        (loss_sum(adapted, batch) / batch.trained_tokens).backward()
        parameters = trained_parameters(adapted)
        return {short(name): value.grad.detach().float().numpy().copy() for name, value in parameters.items()}


def plain(scene: Scene, batches: Batches, training: Training) -> dict[str, Array]:
    """Return the update that a volunteer's training makes."""
    with scene.lent() as adapted:
        train(adapted, batches, training)
        return deltas(factors(adapted, scene.adapter), scene.begun, scene.moves)


def private(scene: Scene, how: Privately, training: Training) -> dict[str, Array]:
    """Return the update that a volunteer's differentially private training makes."""
    with scene.lent() as adapted:
        train_privately(adapted, how, training)
        return deltas(factors(adapted, scene.adapter), scene.begun, scene.moves)


def summed(updates: Sequence[Update], bits: int = 24) -> dict[str, Array]:
    """Return the mean that a secure sum of *updates* shows a coordinator, and nothing else of them.

    Masks cancel, so the sum of the rounded updates in the ring is what it decodes; the clip is the largest norm.
    """
    rng = np.random.default_rng(len(updates))
    flat = [np.concatenate([one[name].ravel() for name in sorted(one)]) for one in updates]
    ring = Ring(bits, 128, len(flat[0]), max(float(np.linalg.norm(one)) for one in flat))
    words = [quantised(clipped(one, ring.clip)[0], ring, rng) for one in flat]
    mean = centred(reduce(np.add, words), bits) * ring.step / len(updates)
    ends = np.cumsum([updates[0][name].size for name in sorted(updates[0])])
    pieces = zip(sorted(updates[0]), np.split(mean, ends[:-1]), strict=True)
    return {name: piece.reshape(updates[0][name].shape).astype(np.float32) for name, piece in pieces}


def applied(scene: Scene, update: Update) -> dict[str, LowRank]:
    """Return the adapter that *update* makes of the round's start."""
    return {
        name: LowRank(
            term.b + update.get(f"{name}.lora_B", np.float32(0)),
            term.a + update.get(f"{name}.lora_A", np.float32(0)),
            term.scale,
        )
        for name, term in scene.begun.items()
    }


def short(name: str) -> str:
    """Return a parameter's name in peft as updates have it."""
    return name.removeprefix("base_model.model.").removesuffix(".trained.weight")
