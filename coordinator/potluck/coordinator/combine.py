"""From the fixed inputs of a round to a version, in steps that a kill at any point and a restart repeat exactly.

What is combined was written down when the round closed.  It is sorted by digest, read from disk one update at a time,
and added with one BLAS thread: the same inputs give the same bits, in any order of arrival, however often it is done.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, final, overload

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from potluck.aggregation import LowRank, Update, aggregate, broadcast, encode, from_deltas, start, to_tensors
from potluck.aggregation.errors import BadUpdate, PotluckError
from potluck.coordinator.checkpoints import Checkpoint, published, read_checkpoint
from potluck.coordinator.committing import Made, conclude, give_up
from potluck.coordinator.probe import Judgement, Measured, Probe
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Superseded
from potluck.coordinator.store.records import Input, Version
from potluck.wire.refusals import Refusal
from potluck.wire.tensors import decode_update

LOG = logging.getLogger(__name__)
_THREADS: Final = 1


@final
@dataclass(frozen=True, slots=True)
class Inputs(Sequence[Update]):
    """A round's updates, read and decoded one at a time as they are asked for."""

    site: Site
    rows: Sequence[Input]
    versions: Mapping[int, Version]
    onto: int
    """The version that they are added to: it may be another than when they came in, after a rollback or a refusal."""
    _starts: dict[int, Mapping[str, LowRank]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Update: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Update]: ...
    def __getitem__(self, place: int | slice) -> Update | Sequence[Update]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        row = self.rows[place]
        data = self.site.folders.spool.read(row.digest)
        if hashlib.sha256(data).digest() != row.digest:
            raise BadUpdate(f"update {row.digest.hex()[:16]}… was damaged on this disk", fix="check the disk")
        changes = decode_update(data, self.site.plan.manifest(row.version))
        self.site.on_step(Step.COMPUTE, When.INSIDE)
        return from_deltas(
            changes,
            self._start(row.version),
            examples=row.examples,
            steps=row.steps,
            staleness=max(0, self.onto - row.version),
            moves=self.site.plan.recipe.moves(row.version),
        )

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


def combine_rounds(site: Site) -> list[int]:
    """Combine every round whose inputs are fixed, the oldest first; return the versions that came of it.

    A round whose updates the rule refuses is abandoned with the reason, and one whose version is worse on the probe
    is closed without it; what goes wrong on our side is raised, and the round stays as it is for another try.

    Raises:
        Superseded: another coordinator took over.
        Refusal: the disk is full, or the database stayed locked.
        PotluckError: the probe could not be measured.
    """
    made: list[int] = []
    while True:
        with site.store.reading() as books:
            waiting = books.rounds.combining()
        if not waiting:
            return made
        version = combine_round(site, waiting[0].number)
        if version is not None:
            made.append(version)


def combine_round(site: Site, number: int) -> int | None:
    """Combine one round; return its version, or None where it ended without, or the master moved meanwhile."""
    try:
        made = _compute(site, number)
    except (Superseded, Refusal):
        raise
    except (PotluckError, np.linalg.LinAlgError) as error:
        LOG.warning("event=round_given_up round=%d reason=%s", number, error)
        give_up(site, number, str(error))
        return None
    return conclude(site, number, made, judge(site, made))


def judge(site: Site, made: Made) -> Judgement | None:
    """Step JUDGE: return how the new version does on the probe beside the one before, or None where there is no probe.

    Nothing is written: after a kill the same adapters are measured again.

    Raises:
        PotluckError: it could not be measured; the round stays as it is for another try.
    """
    if site.probe is None:
        return None
    site.on_step(Step.JUDGE, When.BEFORE)
    before = _measured(site, site.probe, made.parent.adapter_digest)
    site.on_step(Step.JUDGE, When.INSIDE)
    after = _measured(site, site.probe, made.adapter_digest)
    site.on_step(Step.JUDGE, When.AFTER)
    return Judgement(before, after, site.probe.tolerance, site.probe.judge.digest)


def _measured(site: Site, probe: Probe, digest: bytes) -> Measured:
    return probe.measured(digest, site.folders.blobs.path(digest) if digest else None)


def _compute(site: Site, number: int) -> Made:
    """Steps COMPUTE and BLOB: everything up to what only has to be named."""
    site.on_step(Step.COMPUTE, When.BEFORE)
    with site.store.reading() as books:
        rows = books.rounds.inputs(number)
        versions = {version.version: version for version in books.versions.last()}
        parent = versions[books.run().version]
    digest = parent.checkpoint_digest
    before = read_checkpoint(site.folders.blobs.read(digest)) if digest else Checkpoint()
    recipe = site.plan.recipe
    with _one_thread():
        inputs = Inputs(site, rows, versions, parent.version)
        result = aggregate(inputs, before.master, recipe.pipeline(len(rows)), before.state)
        checkpoint = Checkpoint(result.master, result.state).to_bytes()
        adapter = encode(to_tensors(broadcast(result.master, recipe.init)), "fp32")
    site.on_step(Step.COMPUTE, When.AFTER)
    site.on_step(Step.BLOB, When.BEFORE)
    checkpoint_digest = site.folders.blobs.put(checkpoint)
    adapter_digest = site.folders.blobs.put(adapter, on_written=lambda: site.on_step(Step.BLOB, When.INSIDE))
    site.on_step(Step.BLOB, When.AFTER)
    return Made(parent, checkpoint_digest, adapter_digest, len(adapter), result.report)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let BLAS use one thread: with more it splits sums by their number, which another machine would split otherwise.

    threadpoolctl lets one thread of a process decide, and silently ignores the others; we are told at least.
    """
    with threadpool_limits(_THREADS):
        used = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        if any(count != _THREADS for count in used):
            LOG.warning("event=blas_threads threads=%s reason=another thread of this process limits them", used)
        yield
