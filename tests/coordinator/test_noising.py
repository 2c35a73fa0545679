"""User-level privacy in a run: clipped, noised by what is claimed, the same after a kill, and limited by the store."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting
from potluck.aggregation.errors import BadSetting
from potluck.aggregation.private.banded import best_bands, responses, sensitivity
from potluck.aggregation.private.gaussian import epsilon_of
from potluck.coordinator.checkpoints import read_checkpoint
from potluck.coordinator.noising import release_of, total_of
from potluck.coordinator.steps import Step, When
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.sums import unflattened
from potluck.wire.tensors import Manifest, decode_update
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, recipe
from summing import summed_recipe

COHORT, CLIP, ROWS = 3, 0.5, 400
NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")


def private(*, epsilon: float = 100.0, participations: int = 2, separation: int = 2, rows: int = ROWS) -> Recipe:
    """Return a recipe with little noise: three clients could learn nothing under more, and the gate would say so."""
    terms = {
        "unit": "user-central",
        "epsilon": epsilon,
        "participations": participations,
        "separation": separation,
    }
    return recipe(
        run={"versions": participations * separation},
        model={"modules": {name: [rows, 12] for name in NAMES}},
        aggregation={
            "rule": "ffa",
            "weights": ["uniform"],
            "hostile": 0.0,
            "mode": "synchronous",
            "cohort": COHORT,
            "minimum": COHORT,
            "over_selection": 1.0,
        },
        privacy={"differential": terms, "clip": CLIP},
    )


def master_b(hosted: Hosted, volunteer: Volunteer, lease: pb.Lease) -> np.ndarray:
    """Return B of the whole shared adapter, (numbers,), against the public A that everybody has."""
    site = hosted.coordinator.desk.site
    with site.store.reading() as books:
        version = books.versions.find(books.run().version)
    assert version is not None
    found = read_checkpoint(site.folders.blobs.read(version.checkpoint_digest)).master
    start = volunteer.started(lease)
    parts = [found[n].dense() @ np.linalg.pinv(start[n].a.astype(float)) / start[n].scale for n in NAMES]
    return np.concatenate([part.ravel() for part in parts])


def play(hosted: Hosted, members: Sequence[Volunteer], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Play a round; return Σ of the clipped changes, and the master after it."""
    manifest = hosted.coordinator.desk.site.plan.manifest(0)
    total = np.zeros(0)
    for member in members:
        lease = member.lease()
        data = member.train(lease)
        change = decode_update(data, manifest)
        flat = np.concatenate([change[f"{name}.lora_B"].astype(float).ravel() for name in NAMES])
        shrunk = flat * min(1.0, CLIP / np.linalg.norm(flat))
        total = shrunk if not len(total) else total + shrunk
        member.deliver(lease, data)
    assert hosted.coordinator.wait_for_version(number, 20)
    return total, master_b(hosted, members[0], lease)


def test_a_version_is_the_clipped_mean_and_noise_of_the_claimed_size(tmp_path: Path):
    with hosting(tmp_path / "run", private()) as hosted:
        crews = hosted.cohort(COHORT), hosted.cohort(COHORT)
        release = release_of(private())
        before, noises = 0.0, []
        for number in (1, 2, 3, 4):
            total, after = play(hosted, crews[number % 2], number)
            noises.append(after - before - total / COHORT)
            before = after

    u = responses(4, best_bands(release.schedule))
    for t, noise in enumerate(noises):
        claimed = release.scale / COHORT * math.sqrt(float((u[: t + 1] ** 2).sum()))
        assert noise.std() == pytest.approx(claimed, rel=0.06)  # 1,600 numbers
    assert release.scale == pytest.approx(release.noise * CLIP * sensitivity(release.schedule, release.bands))
    assert epsilon_of(release.noise, 1e-5) == pytest.approx(100.0)
    shared = np.corrcoef(noises[0], noises[1])[0, 1]
    assert shared == pytest.approx(u[1] / math.hypot(1.0, u[1]), abs=0.08)  # the second takes back part of the first


@pytest.mark.parametrize("lie", [1.0, 1.0009], ids=["honest members", "a hostile one"])
def test_one_member_moves_what_is_noised_by_no_more_than_the_clip(lie: float):
    """Also where a hostile member brings a sum's mean above the clip, as far as is believed: the noise is for that."""
    run = summed_recipe(privacy={"differential": {"unit": "user-central", "participations": 1}})
    manifest, clip, many = Manifest.of(run, 0), run.privacy.clip, 100
    along, across = np.linalg.qr(np.random.default_rng(3).standard_normal((manifest.values, 2)))[0].T
    whole = many * clip * lie * along
    mine = clip * (0.91 * along + math.sqrt(1 - 0.91**2) * across)

    def total(vector: np.ndarray, members: int) -> np.ndarray:
        return total_of(run, manifest, [unflattened(vector / members, manifest)], members)

    moved = np.linalg.norm(total(whole + mine, many + 1) - total(whole, many))
    assert moved == pytest.approx(clip, rel=1e-9)  # with another clip, of the mean: 1.08 times as much


def test_a_killed_combination_repeats_its_noise(tmp_path: Path):
    def masters(folder: Path, *, kill: bool) -> bytes:
        left = [1] if kill else []

        def on_step(step: Step, when: When) -> None:
            if left and (step, when) == (Step.BLOB, When.AFTER):
                left.clear()
                raise Refusal("the disk is full", code="unavailable", fix="make room")

        with hosting(folder, private(), on_step=on_step) as hosted:
            (folder / "keys" / "noise.seed").write_bytes(bytes(32))
            crew = [Volunteer(hosted.invite(), seed=seed, name=f"v{seed}") for seed in range(COHORT)]
            for one in crew:
                one.enroll()
            hosted.volunteers.extend(crew)
            leases = [one.lease() for one in crew]
            for one, lease in zip(crew, leases, strict=True):
                one.deliver(lease, one.train(lease))
            assert hosted.coordinator.wait_for_version(1, 30)
            site = hosted.coordinator.desk.site
            with site.store.reading() as books:
                version = books.versions.find(1)
            assert version is not None
            return version.checkpoint_digest

    assert masters(tmp_path / "one", kill=False) == masters(tmp_path / "two", kill=True)


def test_the_seed_is_a_secret_of_the_run(tmp_path: Path):
    with hosting(tmp_path / "run", private()) as hosted:
        play(hosted, hosted.cohort(COHORT), 1)
        seed = tmp_path / "run" / "keys" / "noise.seed"

        assert len(seed.read_bytes()) == 32
        assert seed.stat().st_mode & 0o077 == 0


def test_a_client_takes_part_so_often_and_so_far_apart_as_the_recipe_says(tmp_path: Path):
    with hosting(tmp_path / "run", private(participations=2, separation=2)) as hosted:
        first, second = hosted.cohort(COHORT), hosted.cohort(COHORT)
        play(hosted, first, 1)

        turned_away = first[0].check_in()
        assert turned_away.no_work.human.startswith("you took part as often, or as lately, as this run's privacy")

        play(hosted, second, 2)
        assert second[0].check_in().WhichOneof("answer") == "no_work"
        play(hosted, first, 3)
        play(hosted, second, 4)
        assert first[0].check_in().WhichOneof("answer") == "run_done"


def test_participations_are_counted_over_the_whole_run(tmp_path: Path):
    with hosting(tmp_path / "run", private(participations=2, separation=3)) as hosted:
        crews = [hosted.cohort(COHORT) for _ in range(3)]
        for number in range(1, 7):
            play(hosted, crews[(number - 1) % 3], number)
        site = hosted.coordinator.desk.site
        with site.store.reading() as books:
            counted = [books.intake.rounds_of(one.client_id) for crew in crews for one in crew]

    assert counted == [(n, n + 3) for n in (1, 2, 3) for _ in range(COHORT)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aggregation": {"rule": "mean"}}, "noise would be multiplied"),
        ({"aggregation": {"weights": ["examples"]}}, "one client could weigh more"),
        ({"aggregation": {"hostile": 0.2}}, "leaving updates out depends on them"),
        ({"run": {"versions": 0}}, "epsilon counts participations times separation rounds"),
        ({"run": {"versions": 99}}, "run.versions is 99"),
    ],
)
def test_what_noise_on_a_sum_cannot_have_is_refused(change: dict[str, dict[str, object]], words: str):
    whole = private().model_dump(mode="json")
    for table, values in change.items():
        whole[table] |= values
        if values.get("hostile"):
            whole["aggregation"]["weights"] = ["uniform", "krum"]
            whole["aggregation"]["cohort"] = 9

    with pytest.raises(BadSetting, match=words):
        recipe(**whole)


def test_what_would_drown_is_refused_with_the_arithmetic_and_a_way_out():
    with pytest.raises(BadSetting, match=r"1\.20 · √1,600 / 3 clients = 16\.0 times the largest update") as refused:
        private(epsilon=8.0, participations=4, separation=1)
    fix = refused.value.__notes__[0]
    least = int(fix.split("at least ")[1].split(" clients")[0])
    assert least == 25
    assert 'unit = "example"' in fix


def test_a_recipe_of_single_records_needs_training_without_a_pull():
    with pytest.raises(BadSetting, match=r"training.proximal is 0\.1"):
        recipe(training={"proximal": 0.1}, privacy={"differential": {"unit": "example"}})
