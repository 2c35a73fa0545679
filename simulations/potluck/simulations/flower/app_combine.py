"""One round of the Flower app, combined as a coordinator does: the same bytes in, the same version out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.report import Report
from potluck.coordinator.checkpoints import Checkpoint, read_checkpoint
from potluck.coordinator.combine import combined
from potluck.coordinator.inputs import Inputs
from potluck.coordinator.site import Folders, Plan
from potluck.coordinator.steps import no_step
from potluck.coordinator.store.records import Input, Version
from potluck.simulations.flower.app_messages import Arrived
from potluck.simulations.flower.app_run import Standing


class Made(NamedTuple):
    """A version that a round made."""

    standing: Standing
    report: Report


def version_after(plan: Plan, folders: Folders, standing: Standing, arrived: Sequence[Arrived]) -> Made:
    """Return what becomes of *arrived*, in their order; checkpoint and adapter are blobs in *folders* then.

    Raises:
        BadUpdate: there are too few, or the rule refuses them.
        Refusal: the disk is full.
    """
    recipe, blobs = plan.recipe, folders.blobs
    needed = min(recipe.aggregation.minimum, recipe.aggregation.cohort)
    if len(arrived) < needed:
        raise BadUpdate(f"{len(arrived)} updates fit, and {needed} are needed", fix="see why the others do not")
    rows = [
        Input(folders.spool.put(each.data), standing.version, each.examples, each.steps, each.name.encode())
        for each in arrived
    ]
    digest = bytes.fromhex(standing.checkpoint)
    before = read_checkpoint(blobs.read(digest)) if digest else Checkpoint()
    versions = {standing.version: version_of(plan, standing)}
    inputs = Inputs(folders.spool, blobs, plan, no_step, rows, versions, standing.version)
    done = combined(recipe, inputs.updates(), before)
    made = replace(
        standing,
        version=standing.version + 1,
        checkpoint=blobs.put(done.checkpoint).hex(),
        adapter=blobs.put(done.adapter).hex(),
    )
    return Made(made, done.report)


def version_of(plan: Plan, standing: Standing) -> Version:
    """Return the version that a run stands at, as a coordinator's books have it."""
    return Version(
        version=standing.version,
        parent=None,
        round=None,
        rolled_back_to=None,
        checkpoint_digest=bytes.fromhex(standing.checkpoint),
        adapter_digest=bytes.fromhex(standing.adapter),
        adapter_size=0,
        seed=plan.seed_of(standing.version),
        contributors=0,
        examples=0,
        loss_before=0.0,
        loss_after=0.0,
        truncation=0.0,
        log_index=0,
        made_s=0.0,
    )
