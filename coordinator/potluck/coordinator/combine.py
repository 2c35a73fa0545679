"""From the fixed inputs of a round to a version, in steps that a kill at any point and a restart repeat exactly.

What is combined was written down when the round closed.  It is sorted by digest, read from disk one update at a time,
and added with one BLAS thread: the same inputs give the same bits, in any order of arrival, however often it is done.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from potluck.aggregation import Report, Update, aggregate, broadcast, encode, to_tensors
from potluck.aggregation.errors import PotluckError
from potluck.aggregation.products import Mapped
from potluck.coordinator.checkpoints import Checkpoint, read_checkpoint
from potluck.coordinator.committing import Made, conclude, give_up
from potluck.coordinator.inputs import Inputs
from potluck.coordinator.noising import noised
from potluck.coordinator.probe import Judgement, Measured, Probe
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Superseded
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal

LOG = logging.getLogger(__name__)
_THREADS: Final = 1


class Combined(NamedTuple):
    """What comes of a round, as bytes."""

    checkpoint: bytes
    """The master and what is remembered beside it, as `read_checkpoint` takes it."""
    adapter: bytes
    """What clients download."""
    report: Report


def combined(recipe: Recipe, updates: Sequence[Update], before: Checkpoint, *, mapped: Mapped = map) -> Combined:
    """Return what comes of *updates* that are added to *before*: the same ones, the same bytes.  Writes nothing.

    Raises:
        PotluckError, LinAlgError: the rule refuses them.
    """
    with _one_thread():
        result = aggregate(updates, before.master, recipe.pipeline(len(updates)), before.state, mapped=mapped)
        checkpoint = Checkpoint(result.master, result.state).to_bytes()
        adapter = encode(to_tensors(broadcast(result.master, recipe.init)), "fp32")
    return Combined(checkpoint, adapter, result.report)


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
    inputs = Inputs.of(site, rows, versions, parent.version)
    private = site.plan.recipe.privacy.differential.by_user
    updates = noised(site, number, inputs) if private else inputs.updates()
    done = combined(site.plan.recipe, updates, before, mapped=site.mapped)
    site.on_step(Step.COMPUTE, When.AFTER)
    site.on_step(Step.BLOB, When.BEFORE)
    checkpoint_digest = site.folders.blobs.put(done.checkpoint)
    adapter_digest = site.folders.blobs.put(done.adapter, on_written=lambda: site.on_step(Step.BLOB, When.INSIDE))
    site.on_step(Step.BLOB, When.AFTER)
    return Made(parent, checkpoint_digest, adapter_digest, len(done.adapter), done.report)


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
