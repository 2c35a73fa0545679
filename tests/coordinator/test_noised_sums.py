"""Noise on a secure sum holds whatever a hostile member sends: it is added modulo what the sum is known by."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinators import hosting
from guests import Guest, guests, play_sum
from potluck.aggregation import start
from potluck.aggregation.private.banded import responses
from potluck.aggregation.private.release import Release, wrapped
from potluck.aggregation.secure.ring import Ring, Words, centred, clipped, quantised
from potluck.client.secure.participation import Participation
from potluck.coordinator.checkpoints import read_checkpoint
from potluck.coordinator.noising import draws, release_of, total_of
from potluck.coordinator.steps import Step, When
from potluck.wire.noise import SecretNoise
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.sums import terms_of, unflattened
from potluck.wire.tensors import Manifest
from summing import COHORT, entries, summed_recipe

ROUNDS = 4


def noised_sums(bits: int = 24, *, rule: str = "ffa") -> Recipe:
    """Return a recipe of sums of eight under noise that is taken back over rounds."""
    unit = {"unit": "user-central", "epsilon": 20.0, "participations": 1, "separation": ROUNDS}
    return summed_recipe(privacy={"differential": unit, "ring_bits": bits}, aggregation={"rule": rule})


RECIPES = {bits: noised_sums(bits) for bits in (16, 20, 24, 32)}


def ring_of(recipe: Recipe) -> Ring:
    return terms_of(recipe, "", 0).ring


def words_of(ring: Ring, seed: int, length: float) -> Words:
    """Return an honest member's words: an update of *length* clips, clipped and rounded at random."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal(ring.size)
    update, _ = clipped(drawn / np.linalg.norm(drawn) * length * ring.clip, ring.clip)
    return quantised(update, ring, rng)


def summed(recipe: Recipe, words: Words) -> np.ndarray:
    """Return what noise is added to, when a sum came to *words*: read, kept as a mean, and opened again."""
    ring, manifest = ring_of(recipe), Manifest.of(recipe, 0)
    mean = centred(words, ring.bits) * ring.step / COHORT
    return total_of(recipe, manifest, [unflattened(mean, manifest)], COHORT)


def drawn(t: int) -> np.ndarray:
    return np.random.default_rng(t).standard_normal(64)


def apart(release: Release, one: np.ndarray, other: np.ndarray) -> float:
    """Return the distance of two noised totals on the torus: round it, where that is shorter."""
    return float(np.linalg.norm(wrapped(one - other, release.period)))


@given(
    bits=st.sampled_from([*RECIPES]),
    seed=st.integers(0, 2**32),
    length=st.floats(0, 3),
    at_the_edge=st.booleans(),
    t=st.integers(0, ROUNDS - 1),
)
@example(bits=24, seed=1, length=1e-6, at_the_edge=True, t=0)
@settings(deadline=None)
def test_one_member_moves_a_noised_sum_by_no_more_than_its_clip_whatever_another_one_sends(
    *, bits: int, seed: int, length: float, at_the_edge: bool, t: int
):
    """On the torus, and with the same noise: that is what makes wrapping a function of the noised sum alone."""
    recipe = RECIPES[bits]
    ring, release = ring_of(recipe), release_of(recipe)
    others = sum((words_of(ring, seed + n, 1.0) for n in range(COHORT - 2)), np.zeros(ring.size, np.uint32))
    hostile = np.random.default_rng(seed).integers(0, 2**32, ring.size, dtype=np.uint32)
    if at_the_edge:  # it knows what the others sent: any step up is one round the ring
        hostile = np.uint32((1 << (bits - 1)) - 1) - others
    mine = words_of(ring, seed + COHORT, length)

    without = release.noised(summed(recipe, others + hostile), drawn, t)
    whole = release.noised(summed(recipe, others + hostile + mine), drawn, t)

    assert apart(release, whole, without) <= (ring.clip + release.rounding) * (1 + 1e-9)
    assert np.abs(whole).max() <= release.period / 2


def test_at_the_edge_of_the_ring_a_sum_itself_is_moved_by_many_clips():
    """What the noise would not be for: the attack that wrapping takes the edge from."""
    recipe = RECIPES[24]
    ring, edge = ring_of(recipe), np.full(64, (1 << 23) - 1, np.uint32)

    moved = summed(recipe, edge + np.uint32(1)) - summed(recipe, edge)

    assert np.linalg.norm(moved) > 100 * ring.clip
    assert apart(release_of(recipe), moved, np.zeros(64)) == pytest.approx(8 * ring.step)


@given(st.sampled_from([*RECIPES]), st.integers(0, 2**32), st.integers(5, COHORT), st.integers(0, ROUNDS - 1))
@settings(deadline=None)
def test_wrapping_leaves_sums_of_honest_members_as_they_are_to_the_bit(bits: int, seed: int, members: int, t: int):
    recipe = RECIPES[bits]
    ring, release = ring_of(recipe), release_of(recipe)
    words = sum((words_of(ring, seed + n, 2.0) for n in range(members)), np.zeros(ring.size, np.uint32))
    total = summed(recipe, words)

    assert release(total, drawn, t).tobytes() == replace(release, period=math.inf)(total, drawn, t).tobytes()


def test_where_factors_take_turns_each_ring_has_its_period_and_the_noise_is_for_the_coarser_one():
    recipe = noised_sums(rule="rolora")
    rings = [terms_of(recipe, "", version).ring for version in (0, 1, 2)]
    releases = [release_of(recipe, version) for version in (0, 1, 2)]

    assert rings[0].size != rings[1].size
    assert [one.period for one in releases] == [ring.period for ring in rings]
    assert len({one.scale for one in releases}) == 1
    assert releases[0].rounding == max(ring.step * math.sqrt(ring.size) for ring in rings)


def test_where_factors_take_turns_a_round_gets_the_numbers_of_an_earlier_one_of_another_size():
    recipe = noised_sums(rule="rolora")
    sizes = [terms_of(recipe, "", version).size for version in (0, 1)]
    smaller, larger = (draws(SecretNoise(bytes(32)), ["one", "two"], recipe, size) for size in sorted(sizes))

    assert smaller(1).tolist() == larger(1)[: min(sizes)].tolist()
    assert smaller(0).tolist() != smaller(1).tolist()
    assert larger(1).shape == (max(sizes),)


@given(bits=st.sampled_from([*RECIPES]), seed=st.integers(0, 2**32), t=st.integers(0, ROUNDS - 1))
@settings(deadline=None)
def test_a_noised_sum_of_anything_is_no_longer_than_one_of_honest_members_can_be(*, bits: int, seed: int, t: int):
    recipe = RECIPES[bits]
    ring, release = ring_of(recipe), release_of(recipe)
    anything = np.random.default_rng(seed).integers(0, 2**32, ring.size, dtype=np.uint32)

    mean = release(summed(recipe, anything), drawn, t)

    deviation = release.scale * np.linalg.norm(responses(t + 1, release.bands))
    assert np.linalg.norm(mean) <= (ring.clip + release.rounding + deviation * (8.0 + 8.0) / COHORT) * (1 + 1e-9)
    before = release.noised(summed(recipe, anything), drawn, t) / COHORT
    assert np.linalg.norm(before) > 1.5 * np.linalg.norm(mean)  # it was longer
    assert mean == pytest.approx(before * np.linalg.norm(mean) / np.linalg.norm(before))  # and points where it did


@dataclass
class Unbounded(Guest):
    """A member who adds anything to the sum."""

    def participation(self) -> Participation:
        made = super().participation()
        made._words[:64] = np.uint32((1 << 23) - 1)  # noqa: SLF001 - a client that does not clip
        made._words[66:] = np.uint32(12345)  # noqa: SLF001 - whose lanes say what none can
        return made


def test_a_hostile_member_loses_no_sum_that_is_noised_and_moves_the_version_no_further_than_the_bound(tmp_path: Path):
    """Where it could, whether a sum was lost would tell it a bit about the others, without noise, in a public log."""
    recipe = RECIPES[24]
    with hosting(tmp_path / "run", recipe) as hosted:
        made = guests(hosted, COHORT)
        for guest in made:
            guest.meet()
        for guest in made:
            guest.begin()
        made[3] = Unbounded(**{field.name: getattr(made[3], field.name) for field in fields(made[3]) if field.init})
        play_sum(made)
        assert hosted.coordinator.wait_for_version(1, 20.0)

        site = hosted.coordinator.desk.site
        version = hosted.coordinator.history().versions[0]
        master = read_checkpoint(site.folders.blobs.read(version.checkpoint_digest)).master
        seed = hosted.coordinator.history().versions[-1].seed
    ring, release = ring_of(recipe), release_of(recipe)
    adapter = recipe.adapter
    begun = start({}, recipe.modules(), init=recipe.init, rank=adapter.rank, scale=adapter.scale, seed=seed).trainable
    moved = [master[name].dense() @ np.linalg.pinv(term.a.astype(float)) / term.scale for name, term in begun.items()]
    assert np.linalg.norm(np.concatenate([one.ravel() for one in moved])) <= release.most(64, 0) / COHORT * (1 + 1e-6)
    assert release.most(64, 0) / COHORT < 3 * ring.clip
    kinds = [entry["kind"] for entry in entries(tmp_path / "run")]
    assert (kinds.count("sum_revealed"), kinds.count("sum_lost")) == (1, 0)


def test_a_sum_whose_noising_was_cut_short_is_noised_again_to_the_same_bits(tmp_path: Path):
    """The sum waits on the disk without noise; other noise on it, in a second version, would average out."""
    made_of: list[set[str]] = []

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.BLOB, When.AFTER):
            made_of.append({path.name for path in (tmp_path / "run" / "blobs").rglob("*") if path.is_file()})
            if len(made_of) == 1:
                raise Refusal("the disk is full", code="disk_full", fix="make room")

    with hosting(tmp_path / "run", RECIPES[24], on_step=on_step) as hosted:
        members = guests(hosted, COHORT)
        for one in members:
            one.meet()
        for one in members:
            one.begin()
        play_sum(members)
        assert hosted.coordinator.wait_for_version(1, 20.0)

    assert len(made_of) == 2
    assert made_of[0] == made_of[1]
    assert len(made_of[0]) == 2  # a checkpoint and an adapter
