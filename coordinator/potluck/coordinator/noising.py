"""User-level privacy: what a round combines becomes one update, the noised mean of clipped ones.

Noise is drawn from a secret seed of the run, for every round anew and for the very inputs of that round: a coordinator
that is killed draws the same again, and one that was set back to an older database, with other inputs, draws other.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation import Update, from_deltas
from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.private.banded import Floats
from potluck.aggregation.private.release import Release, clipped
from potluck.coordinator.inputs import Inputs
from potluck.coordinator.keys import secret_at
from potluck.coordinator.site import Site
from potluck.coordinator.store.records import Input, UpdateState
from potluck.wire.noise import SecretNoise
from potluck.wire.recipe import Recipe
from potluck.wire.sums import flattened, terms_of, unflattened
from potluck.wire.tensors import Manifest

SEED = "noise.seed"
TURNS: Final = (0, 1)
"""Versions of which one moves either factor, where factors take turns."""


def release_of(recipe: Recipe, version: int = 0) -> Release:
    """Return how a round of *recipe* whose updates start from *version* is noised.

    Only the period of a secure sum depends on the version: where factors take turns their rings differ, and the noise
    is for the larger rounding of the two.

    Raises:
        BadSetting: the recipe's numbers cannot be.
    """
    terms, clip = recipe.privacy.differential, recipe.privacy.clip
    rounding, period = 0.0, math.inf
    if recipe.privacy.secure_aggregation:
        rings = [terms_of(recipe, "", turn).ring for turn in TURNS]
        rounding = max(ring.step * math.sqrt(ring.size) for ring in rings)
        period = terms_of(recipe, "", version).ring.period
    return Release(terms.schedule, clip, terms.multiplier, recipe.aggregation.cohort, rounding, period)


def noised(site: Site, number: int, inputs: Inputs) -> list[Update]:
    """Return the one update that round *number* combines: the noised mean of its *inputs*.

    Raises:
        BadTensor: an update is not finite, or the schedule has no such round.
        BadUpdate: inputs start from different versions.
    """
    versions = {row.version for row in inputs.rows}
    if len(versions) != 1:
        raise BadUpdate(f"a private round has updates from {len(versions)} versions", fix="report this bug")
    version = versions.pop()
    manifest, recipe, rows = site.plan.manifest(version), site.plan.recipe, inputs.rows
    with site.store.reading() as books:
        members = len(books.intake.of_round(number, UpdateState.FIXED))
        labels = [_label(n, books.rounds.inputs(n)) for n in range(1, number + 1)]
    changes = (inputs.changes(place) for place in range(len(rows)))
    total = total_of(recipe, manifest, changes, members)
    noise = SecretNoise(secret_at(site.folders.keys / SEED))
    mean = release_of(recipe, version)(total, draws(noise, labels, recipe, len(total)), number - 1)
    return [
        from_deltas(
            unflattened(mean, manifest),
            inputs.start(version),
            examples=sum(row.examples for row in rows),
            steps=max(row.steps for row in rows),
            moves=recipe.moves(version),
        )
    ]


def draws(noise: SecretNoise, labels: Sequence[str], recipe: Recipe, size: int) -> Callable[[int], Floats]:
    """Return what gives w_t, (size,), of the round with that one of *labels*.

    Where factors take turns, rounds of different size ask for it.  What a round takes back is only what another one
    added if both get the same numbers: the first ones of as many as the larger round has.
    """
    widest = max(Manifest.of(recipe, turn).values for turn in TURNS)
    return lambda t: noise.gaussian(labels[t], widest)[:size]


def total_of(
    recipe: Recipe, manifest: Manifest, changes: Iterable[Mapping[str, NDArray[np.floating]]], members: int
) -> Floats:
    """Return what noise is added to: Σ of the *changes*, each shrunk to the clip, (d,).

    Of a secure sum there is one change, the mean of its *members*, who shrunk their updates themselves.  It is taken as
    it is: shrunk to the clip once more, it would move by more than one update's share where somebody is left out.
    """
    if recipe.privacy.secure_aggregation:
        (mean,) = changes
        return members * flattened(mean, manifest)
    total = np.zeros(sum(math.prod(shape) for _, shape in manifest.entries))
    for one in changes:
        total += flattened(clipped(one, recipe.privacy.clip), manifest)
    return total


def _label(number: int, rows: Sequence[Input]) -> str:
    """Name the noise of a round by what the round combines."""
    digest = hashlib.sha256(b"".join(row.digest for row in rows)).hexdigest()
    return f"round/{number}/{digest}"
