"""A round's updates on the disk, opened one at a time and read one module at a time."""

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from potluck.aggregation import LowRank, Opened, Update, start
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Array
from potluck.aggregation.stored import Parts, StoredUpdates
from potluck.aggregation.tensors import LORA_A, LORA_B, changed
from potluck.coordinator.checkpoints import published
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.records import Input, Version
from potluck.wire.tensors import open_update

KEPT: Final = 128
"""Updates of a round whose headers stay in memory; those of a larger one are read again for every module."""


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What a round combines."""

    site: Site
    rows: Sequence[Input]
    versions: Mapping[int, Version]
    onto: int
    """The version that they are added to: it may be another than when they came in, after a rollback or a refusal."""
    _starts: dict[int, Mapping[str, LowRank]] = field(default_factory=dict, init=False, repr=False)
    _messages: dict[int, Opened] = field(default_factory=dict, init=False, repr=False)
    _whole: set[int] = field(default_factory=set, init=False, repr=False)

    def updates(self) -> StoredUpdates:
        """Return them in their order, for `aggregate`."""
        return StoredUpdates(len(self.rows), self._update)

    def _update(self, place: int) -> Update:
        """Return one update, whose numbers are read when they are asked for."""
        row, begun = self.rows[place], self._start(self.rows[place].version)
        message = self._message(place)
        self.site.on_step(Step.COMPUTE, When.INSIDE)

        def tensor(name: str) -> Array | None:
            return message.tensor(name) if name in message.shapes else None

        def read(name: str) -> LowRank:
            return changed(name, begun[name], b=tensor(name + LORA_B), a=tensor(name + LORA_A))

        return Update(
            trained=Parts(sorted(begun), read),
            start=begun,
            examples=row.examples,
            steps=row.steps,
            staleness=max(0, self.onto - row.version),
            key=row.digest + row.version.to_bytes(8, "big"),
        )

    def _message(self, place: int) -> Opened:
        """Return an update's message.

        Raises:
            BadUpdate: its bytes are gone, or not those that came in.
        """
        if place in self._messages:
            return self._messages[place]
        row = self.rows[place]
        try:
            with self.site.folders.spool.path(row.digest).open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError):  # a file without a byte cannot be mapped
            raise BadUpdate(f"update {row.digest.hex()[:16]}… is gone from this disk", fix="check the disk") from None
        if place not in self._whole and hashlib.sha256(data).digest() != row.digest:
            raise BadUpdate(f"update {row.digest.hex()[:16]}… was damaged on this disk", fix="check the disk")
        self._whole.add(place)
        message = open_update(data, self.site.plan.manifest(row.version))
        if len(self.rows) <= KEPT:
            self._messages[place] = message
        return message

    def _start(self, number: int) -> Mapping[str, LowRank]:
        """Return what clients of that version started from: the same bits as on their machines."""
        if number not in self._starts:
            recipe, version = self.site.plan.recipe, self.versions[number]
            digest = version.adapter_digest
            self._starts[number] = start(
                published(self.site.folders.blobs.read(digest)) if digest else {},
                recipe.modules(),
                init=recipe.init,
                rank=recipe.adapter.rank,
                scale=recipe.adapter.scale,
                seed=version.seed,
            ).trainable
        return self._starts[number]
