"""A round's updates on the disk, opened one at a time and read one module at a time."""

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self, final

from potluck.aggregation import LowRank, Opened, Update, start
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.lowrank import Array
from potluck.aggregation.stored import Parts, StoredUpdates
from potluck.aggregation.tensors import LORA_A, LORA_B, changed
from potluck.coordinator.blobs import BlobFolder
from potluck.coordinator.checkpoints import published
from potluck.coordinator.site import Plan, Site
from potluck.coordinator.steps import OnStep, Step, When
from potluck.coordinator.store.records import Input, Version
from potluck.wire.tensors import open_update

KEPT_BYTES: Final = 64 << 20
"""Updates of a round that stay open are no more than this together; the rest is opened again for every module."""


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What a round combines.  It can be sent to another process that sees the same folder: what is open stays here."""

    spool: BlobFolder
    blobs: BlobFolder
    plan: Plan
    on_step: OnStep
    rows: Sequence[Input]
    versions: Mapping[int, Version]
    onto: int
    """The version that they are added to: it may be another than when they came in, after a rollback or a refusal."""
    whole: set[int] = field(default_factory=set)
    """Places whose bytes were found to be those that came in."""
    _starts: dict[int, Mapping[str, LowRank]] = field(default_factory=dict, repr=False)
    _messages: dict[int, Opened] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, site: Site, rows: Sequence[Input], versions: Mapping[int, Version], onto: int) -> Self:
        """Return the inputs of a round of *site*."""
        return cls(site.folders.spool, site.folders.blobs, site.plan, site.on_step, rows, versions, onto)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.spool, self.blobs, self.plan, self.on_step, self.rows, self.versions, self.onto)
        return type(self), (*facts, self.whole, self._starts)

    def updates(self) -> StoredUpdates:
        """Return them in their order, for `aggregate`."""
        return StoredUpdates(len(self.rows), self._update)

    def changes(self, place: int) -> dict[str, Array]:
        """Return what one client changed, by tensor."""
        message = self._message(place)
        return {name: message.tensor(name) for name in message.shapes}

    def start(self, number: int) -> Mapping[str, LowRank]:
        """Return what clients of that version started from."""
        return self._start(number)

    def _update(self, place: int) -> Update:
        """Return one update, whose numbers are read when they are asked for."""
        row = self.rows[place]
        self._message(place)
        self.on_step(Step.COMPUTE, When.INSIDE)
        begun = self._start(row.version)
        return Update(
            trained=Parts(begun, partial(self._read, place)),
            start=begun,
            examples=row.examples,
            steps=row.steps,
            staleness=max(0, self.onto - row.version),
            key=row.digest + row.version.to_bytes(8, "big"),
        )

    def _read(self, place: int, name: str) -> LowRank:
        """Return one module as one client trained it."""
        message = self._message(place)

        def tensor(which: str) -> Array | None:
            return message.tensor(which) if which in message.shapes else None

        begun = self._start(self.rows[place].version)[name]
        return changed(name, begun, b=tensor(name + LORA_B), a=tensor(name + LORA_A))

    def _message(self, place: int) -> Opened:
        """Return an update's message; the first time, its bytes are compared with its digest.

        Raises:
            BadUpdate: its bytes are gone, or not those that came in.
        """
        if place in self._messages:
            return self._messages[place]
        row = self.rows[place]
        try:
            with self.spool.path(row.digest).open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError):  # a file without a byte cannot be mapped
            raise BadUpdate(f"update {row.digest.hex()[:16]}… is gone from this disk", fix="check the disk") from None
        if place not in self.whole and hashlib.sha256(data).digest() != row.digest:
            raise BadUpdate(f"update {row.digest.hex()[:16]}… was damaged on this disk", fix="check the disk")
        self.whole.add(place)
        message = open_update(data, self.plan.manifest(row.version))
        if len(self.rows) * len(data) <= KEPT_BYTES:
            self._messages[place] = message
        return message

    def _start(self, number: int) -> Mapping[str, LowRank]:
        """Return what clients of that version started from: the same bits as on their machines."""
        if number not in self._starts:
            recipe, version = self.plan.recipe, self.versions[number]
            digest = version.adapter_digest
            self._starts[number] = start(
                published(self.blobs.read(digest)) if digest else {},
                recipe.modules(),
                init=recipe.init,
                rank=recipe.adapter.rank,
                scale=recipe.adapter.scale,
                seed=version.seed,
            ).trainable
        return self._starts[number]
