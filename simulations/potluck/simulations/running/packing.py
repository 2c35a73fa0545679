"""Between what an engine trained and what a round combines: the bytes that travel, written and read as in the wild."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation import CODECS, LowRank, Opened, Update, decode, encode, from_tensors, start, to_tensors
from potluck.aggregation.codecs.feedback import OWN, feed, rebased
from potluck.aggregation.lowrank import Array
from potluck.aggregation.stored import Parts
from potluck.aggregation.tensors import LORA_A, LORA_B, changed
from potluck.client.starts import adapter_in
from potluck.client.work import Trained
from potluck.coordinator.intake import check_values
from potluck.coordinator.site import Plan
from potluck.simulations.running.kept import Kept
from potluck.simulations.running.standing import Lease, Left, Published, Sealed
from potluck.wire.tensors import Manifest, open_update

STARTS: Final = 16
"""Starts that stay in memory: one per version and rank."""

Start = Mapping[str, LowRank]


@final
@dataclass(frozen=True, slots=True)
class Packing:
    """Writes and reads the updates of one run."""

    plan: Plan
    kept: Kept
    blobs: Kept
    _starts: OrderedDict[tuple[int, int], Start] = field(default_factory=OrderedDict)

    def start(self, version: int, published: Published, rank: int) -> Start:
        """Return what clients of *rank* (0: the recipe's) start from: the same bits as theirs."""
        recipe = self.plan.recipe
        rank = rank or recipe.adapter.rank
        if (version, rank) not in self._starts:
            adapter = adapter_in(self.blobs.get(published.adapter), recipe) if published.adapter else {}
            settings = recipe.adapter.model_copy(update={"rank": rank})
            seed, shapes = self.plan.seed_of(version), recipe.modules()
            began = start(adapter, shapes, init=recipe.init, rank=rank, scale=settings.scale, seed=seed)
            self._starts[version, rank] = began.trainable
            while len(self._starts) > STARTS:
                self._starts.popitem(last=False)
        return self._starts[version, rank]

    def seal(self, trained: Trained, began: Start, left: Left | None) -> Sealed:
        """Return *trained* as it travels; with error feedback, what was *left* before goes with it.

        Raises:
            BadTensor: the codec cannot hold a value.
        """
        table = self.plan.recipe.codec
        packing = table.choose(tuple(CODECS))
        if table.error_feedback:
            fed = feed(trained.deltas, self._waiting(left, began), packing.encode, beta=table.beta)
            data = fed.message
            left = Left(self.kept.put(encode(fed.left, "fp32")), self.kept.put(encode(to_tensors(began), "fp16")))
        else:
            data, left = packing.encode(trained.deltas), None
        name = self.kept.put(data)
        losses = float(trained.loss_before), float(trained.loss_after)
        return Sealed(name, len(data), int(trained.examples), int(trained.steps), int(trained.tokens), *losses, left)

    def forged(self, sealed: Sealed, deltas: Mapping[str, Array]) -> Sealed:
        """Return *sealed* with *deltas* in place of what was trained."""
        data = self.plan.recipe.codec.choose(tuple(CODECS)).encode(deltas)
        left = sealed.left
        losses = sealed.loss_before, sealed.loss_after
        return Sealed(self.kept.put(data), len(data), sealed.examples, sealed.steps, sealed.tokens, *losses, left)

    def open(self, lease: Lease, sealed: Sealed, began: Start, onto: int) -> Update:
        """Return the update of *lease* as a coordinator reads it, to be added to the version *onto*.

        Raises:
            BadTensor: a coordinator would not take it.
        """
        recipe, data = self.plan.recipe, self.kept.get(sealed.digest)
        rank = next(iter(began.values())).rank
        manifest = Manifest.of_update(recipe.modules(), rank, recipe.moves(lease.version))
        message = open_update(data, manifest)
        recipe.codec.check(message.facts)
        check_values(message)
        return Update(
            trained=Parts(sorted(began), partial(_module, message, began)),
            start=began,
            examples=min(sealed.examples, recipe.admission.max_examples),
            steps=min(max(sealed.steps, 1), recipe.training.steps),
            staleness=max(0, onto - lease.version),
            key=bytes.fromhex(sealed.digest) + lease.version.to_bytes(8, "big"),
        )

    def _waiting(self, left: Left | None, began: Start) -> Mapping[str, NDArray[np.float64]]:
        """Return what waits to be sent, as deltas from this start; nothing where the client's rank has changed."""
        if left is None:
            return {}
        residual = decode(self.kept.get(left.residual), limits=OWN)
        if self.plan.recipe.init == "keep":  # kept factors are trained from version to version, and never turned
            return {name: value.astype(np.float64) for name, value in residual.items()}
        return rebased(residual, from_tensors(decode(self.kept.get(left.basis), limits=OWN)), began)


def _module(message: Opened, began: Start, name: str) -> LowRank:
    """Return one module as one client trained it."""

    def tensor(which: str) -> Array | None:
        return message.tensor(which) if which in message.shapes else None

    return changed(name, began[name], b=tensor(name + LORA_B), a=tensor(name + LORA_A))
