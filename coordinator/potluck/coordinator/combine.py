"""From the fixed inputs of a round to a version, in steps that a kill at any point and a restart repeat exactly.

What is combined was written down when the round closed.  It is sorted by digest, read from disk one update at a time,
and added with one BLAS thread: the same inputs give the same bits, in any order of arrival, however often it is done.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final, overload

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from potluck.aggregation import LowRank, Report, Update, aggregate, broadcast, encode, from_deltas, start, to_tensors
from potluck.aggregation.errors import BadUpdate, PotluckError
from potluck.coordinator.checkpoints import Checkpoint, published, read_checkpoint
from potluck.coordinator.phases import Event, Phase, after
from potluck.coordinator.progress import abandon, open_round
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Books, Superseded
from potluck.coordinator.store.records import Input, UpdateRecord, UpdateState, Version
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
        changes = decode_update(data, self.site.plan.manifest)
        self.site.on_step(Step.COMPUTE, When.INSIDE)
        return from_deltas(
            changes, self._start(row.version), examples=row.examples, steps=row.steps, staleness=row.staleness
        )

    def _start(self, number: int) -> Mapping[str, LowRank]:
        """Return what clients of that version started from: the same bits as on their machines."""
        if number not in self._starts:
            recipe, version = self.site.plan.recipe, self.versions[number]
            digest = version.adapter_digest
            self._starts[number] = start(
                published(self.site.folders.blobs.read(digest)) if digest else {},
                recipe.modules(),
                init=recipe.adapter.init,
                rank=recipe.adapter.rank,
                scale=recipe.adapter.scale,
                seed=version.seed,
            ).trainable
        return self._starts[number]


class Made(NamedTuple):
    """What was computed and stored for a version, before it is committed."""

    parent: Version
    checkpoint_digest: bytes
    adapter_digest: bytes
    adapter_size: int
    report: Report


def combine_rounds(site: Site) -> list[int]:
    """Combine every round whose inputs are fixed, the oldest first; return the versions that came of it.

    A round whose updates the rule refuses is abandoned with the reason; what goes wrong on our side is raised, and
    the round stays as it is for another try.

    Raises:
        Superseded: another coordinator took over.
        Refusal: the disk is full, or the database stayed locked.
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
    """Combine one round; return its version, or None where it was abandoned or the master moved meanwhile."""
    try:
        made = _compute(site, number)
    except (Superseded, Refusal):
        raise
    except (PotluckError, np.linalg.LinAlgError) as error:
        LOG.warning("event=round_refused round=%d reason=%s", number, error)
        _give_up(site, number, str(error))
        return None
    return _commit(site, number, made)


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
        inputs = Inputs(site, rows, versions)
        result = aggregate(inputs, before.master, recipe.pipeline(), before.state)
        checkpoint = Checkpoint(result.master, result.state).to_bytes()
        adapter = encode(to_tensors(broadcast(result.master, recipe.adapter.init)), "fp32")
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


def _commit(site: Site, number: int, made: Made) -> int | None:
    """Step COMMIT: one transaction, or nothing where the operator moved the master since it was read."""
    site.on_step(Step.COMMIT, When.BEFORE)
    with site.store.writing(site.fence) as books:
        if books.run().version != made.parent.version:
            return None
        version = _version(site, books, number, made)
        books.versions.add(version)
        books.change_run(version=version.version)
        books.intake.move(number, UpdateState.FIXED, UpdateState.COUNTED)
        books.rounds.enter(
            number, after(Phase.AGGREGATING, Event.STORED), ended_s=site.clock.now_s(), version=version.version
        )
        open_round(site, books)
        site.on_step(Step.COMMIT, When.INSIDE)
    site.on_step(Step.COMMIT, When.AFTER)
    forget_counted(site)
    LOG.info("event=committed round=%d version=%d adapter=%s", number, version.version, version.adapter_digest.hex())
    return version.version


def _version(site: Site, books: Books, number: int, made: Made) -> Version:
    """Return the version that a round makes, and write its entry into the log."""
    updates = books.intake.of_round(number, UpdateState.FIXED)
    rows = books.rounds.inputs(number)
    next_version = made.parent.version + 1
    truncation = made.report.total.relative_error
    entry = books.log.append(
        "round_committed",
        round=number,
        version=next_version,
        parent=made.parent.version,
        adapter_digest=made.adapter_digest,
        checkpoint_digest=made.checkpoint_digest,
        recipe_digest=site.plan.digest,
        truncation_error=truncation,
        inputs=[
            {"digest": row.digest, "version": row.version, "examples": row.examples, "weight": weight, "norm": norm}
            for row, weight, norm in zip(rows, made.report.weights, made.report.norms, strict=True)
        ],
    )
    return Version(
        version=next_version,
        parent=made.parent.version,
        round=number,
        rolled_back_to=None,
        checkpoint_digest=made.checkpoint_digest,
        adapter_digest=made.adapter_digest,
        adapter_size=made.adapter_size,
        seed=site.plan.seed_of(next_version),
        contributors=len({update.client_id for update in updates}),
        examples=sum(update.examples for update in updates),
        loss_before=_mean([update.loss_before for update in updates if _reported(update)]),
        loss_after=_mean([update.loss_after for update in updates if _reported(update)]),
        truncation=truncation,
        log_index=entry.index,
        made_s=site.clock.now_s(),
    )


def _give_up(site: Site, number: int, reason: str) -> None:
    """Abandon a round whose updates the rule refused."""
    with site.store.writing(site.fence) as books:
        current = books.rounds.find(number)
        if current is not None and current.phase is Phase.AGGREGATING:
            abandon(site, books, current, Event.REFUSED, reason)
    forget_counted(site)


def forget_counted(site: Site) -> None:
    """Delete the bytes of updates that are in a version, or in no round any more.

    Within a writing transaction: an update with the same bytes is accepted only in another one.
    """
    with site.store.writing(site.fence) as books:
        needed = books.intake.spooled() | {upload.digest for upload in books.leases.uploads()}
        site.folders.spool.delete(site.folders.spool.all() - needed)


def _reported(update: UpdateRecord) -> bool:
    return update.loss_before > 0 and update.loss_after > 0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
