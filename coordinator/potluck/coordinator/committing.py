"""The end of a round that was combined: its version is committed, or refused, or the round is given up.

Each is one transaction, which also writes the log's entry that tells what was made of every update.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from potluck.aggregation import Report
from potluck.coordinator.phases import Event, Phase, after
from potluck.coordinator.probe import Judgement
from potluck.coordinator.progress import abandon, open_round
from potluck.coordinator.renewal import renew
from potluck.coordinator.site import Site
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import UpdateRecord, UpdateState, Version
from potluck.coordinator.trust import told, told_of_noised

LOG = logging.getLogger(__name__)
PATIENCE: Final = 3
"""Versions refused in a row after which the run is paused: volunteers' machines are not to work for nothing."""


class Made(NamedTuple):
    """What was computed and stored for a version, before it is committed."""

    parent: Version
    checkpoint_digest: bytes
    adapter_digest: bytes
    adapter_size: int
    report: Report


def conclude(site: Site, number: int, made: Made, judged: Judgement | None) -> int | None:
    """Step COMMIT: one transaction, or nothing where the operator moved the master since it was read.

    Returns the version, or None where it was refused, or where nothing was done.
    """
    refused = judged is not None and judged.worse
    site.on_step(Step.COMMIT, When.BEFORE)
    with site.store.writing(site.fence) as books:
        if books.run().version != made.parent.version:
            return None
        facts = _facts(site, books, number, made, judged)
        if refused and judged is not None:
            _refuse(site, books, number, judged, facts)
        else:
            _commit(site, books, number, made, facts)
        open_round(site, books)
        site.on_step(Step.COMMIT, When.INSIDE)
    site.on_step(Step.COMMIT, When.AFTER)
    forget_counted(site)
    _warn(number, facts)
    if refused and judged is not None:
        LOG.warning("event=version_refused round=%d kept=%d reason=%s", number, made.parent.version, judged.human)
        return None
    version = made.parent.version + 1
    LOG.info("event=committed round=%d version=%d adapter=%s", number, version, made.adapter_digest.hex())
    return version


def give_up(site: Site, number: int, reason: str) -> None:
    """Abandon a round whose updates the rule refused."""
    with site.store.writing(site.fence) as books:
        current = books.rounds.find(number)
        if current is not None and current.phase is Phase.AGGREGATING:
            renew(site, books, reason)
            abandon(site, books, current, Event.UNUSABLE, reason)
    forget_counted(site)


def forget_counted(site: Site) -> None:
    """Delete the bytes of updates that are in a version, or in no round any more, and of versions that were refused.

    Within a writing transaction: an update with the same bytes is accepted only in another one.
    """
    with site.store.writing(site.fence) as books:
        needed = books.intake.spooled() | {upload.digest for upload in books.leases.uploads()}
        site.folders.spool.delete(site.folders.spool.all() - needed)
        site.folders.blobs.delete(site.folders.blobs.all() - books.versions.blobs())


def _facts(site: Site, books: Books, number: int, made: Made, judged: Judgement | None) -> Mapping[str, Any]:
    """Return what the log tells of a round that was combined, whether its version is committed or not."""
    updates, recipe = books.intake.of_round(number, UpdateState.FIXED), site.plan.recipe
    noised = recipe.privacy.differential.by_user
    summed = {"summed": recipe.aggregation.cohort if noised else len(updates)} if site.plan.terms.summed else {}
    clients = {} if summed else {one.lease_id: one.client_id for one in updates}
    if noised:
        facts = told_of_noised(made.report, recipe.aggregation.cohort) | summed
    else:
        facts = told(made.report, books.rounds.inputs(number), clients) | summed
    common: dict[str, Any] = {
        "round": number,
        "parent": made.parent.version,
        "adapter_digest": made.adapter_digest,
        "checkpoint_digest": made.checkpoint_digest,
    }
    return common | facts | ({} if judged is None else {"probe": judged.facts()})


def _commit(site: Site, books: Books, number: int, made: Made, facts: Mapping[str, Any]) -> None:
    """Make the new version the present one."""
    updates = books.intake.of_round(number, UpdateState.FIXED)
    reported = [update for update in updates if _reported(update, summed=site.plan.terms.summed)]
    version = made.parent.version + 1
    entry = books.log.append("round_committed", version=version, recipe_digest=site.plan.digest, **facts)
    books.versions.add(
        Version(
            version=version,
            parent=made.parent.version,
            round=number,
            rolled_back_to=None,
            checkpoint_digest=made.checkpoint_digest,
            adapter_digest=made.adapter_digest,
            adapter_size=made.adapter_size,
            seed=site.plan.seed_of(version),
            contributors=len({update.client_id for update in updates}),
            examples=sum(update.examples for update in updates),
            loss_before=_mean([update.loss_before for update in reported]),
            loss_after=_mean([update.loss_after for update in reported]),
            truncation=made.report.total.relative_error,
            log_index=entry.index,
            made_s=site.clock.now_s(),
        )
    )
    books.change_run(version=version)
    books.intake.move(number, UpdateState.FIXED, UpdateState.COUNTED)
    books.rounds.enter(
        number,
        after(Phase.AGGREGATING, Event.STORED),
        ended_s=site.clock.now_s(),
        version=version,
        log_index=entry.index,
    )


def _refuse(site: Site, books: Books, number: int, judged: Judgement, facts: Mapping[str, Any]) -> None:
    """Keep the version that is there.  The round's updates are spent: credited, in no version, and not tried again."""
    entry = books.log.append("version_refused", reason=judged.human, recipe_digest=site.plan.digest, **facts)
    books.intake.move(number, UpdateState.FIXED, UpdateState.DROPPED)
    books.rounds.enter(
        number,
        after(Phase.AGGREGATING, Event.WORSE),
        ended_s=site.clock.now_s(),
        reason=judged.human,
        log_index=entry.index,
    )
    renew(site, books, judged.human)
    in_a_row = books.rounds.refused_in_a_row()
    if in_a_row % PATIENCE == 0 and not books.run().paused:
        books.change_run(paused=True)
        books.log.append("paused", reason=f"{in_a_row} versions in a row were worse on the probe")


def _warn(number: int, facts: Mapping[str, Any]) -> None:
    """Tell on the operator's terminal what was found about single updates; clients by their short ids."""
    for found in facts["findings"]:
        others = ",".join(found["others"]) or "nobody"
        LOG.warning(
            "event=finding round=%d client=%s check=%s with=%s reason=%s",
            number,
            found["client"],
            found["check"],
            others,
            found["told"],
        )


def _reported(update: UpdateRecord, *, summed: bool) -> bool:
    """Whether its losses count: both, or the one after training, which alone is in a secure sum."""
    return update.loss_after > 0 and (summed or update.loss_before > 0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
