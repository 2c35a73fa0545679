"""What comes out of a round is what the mathematics says, in any order, and a refusal harms nobody."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting
from potluck.aggregation import LowRank, State, from_tensors
from potluck.aggregation.lowrank import zero
from potluck.aggregation.outer.base import Moments
from potluck.coordinator.checkpoints import Checkpoint, published, read_checkpoint
from potluck.coordinator.phases import Phase
from potluck.coordinator.releases import release_folder
from potluck.coordinator.steps import Step, When
from potluck.coordinator.store.records import UpdateState
from potluck.wire.tensors import decode_update
from potluck.wire.v1 import work_pb2 as pb
from scripted import Volunteer, attempts, recipe

NAME = "model.layers.0.self_attn.q_proj"
WIDE = {"master_rank": 64}


def master(hosted: Hosted) -> dict[str, LowRank]:
    site = hosted.coordinator.desk.site
    with site.store.reading() as books:
        version = books.versions.find(books.run().version)
    assert version is not None
    return dict(read_checkpoint(site.folders.blobs.read(version.checkpoint_digest)).master)


def innovation(volunteer: Volunteer, lease: pb.Lease, data: bytes, manifest: object) -> np.ndarray:
    """Return s·(B·A − B₀·A₀) of one module, densely and in float64: another way than the coordinator's."""
    start = volunteer.started(lease)[NAME]
    change = from_tensors(decode_update(data, manifest))[NAME]  # type: ignore[arg-type]
    after = (start.b.astype(float) + change.b) @ (start.a.astype(float) + change.a)
    return start.scale * (after - start.b.astype(float) @ start.a.astype(float))


def last_entry(hosted: Hosted, kind: str) -> dict[str, object]:
    with hosted.coordinator.desk.site.store.reading() as books:
        return [e for e in (json.loads(one.entry) for one in books.log.since(0)) if e["kind"] == kind][-1]


def test_a_version_is_the_weighted_mean_of_what_was_sent(tmp_path: Path):
    """Dense float64 arithmetic, weights 8 : 16 : 40; the master's rank is large enough to be exact."""
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 3, **WIDE})) as hosted:
        manifest = hosted.coordinator.desk.site.plan.manifest(0)
        expected = np.zeros((16, 12))
        for round_number in (1, 2):
            for volunteer, examples in zip(hosted.volunteers or hosted.cohort(3), (8, 16, 40), strict=True):
                lease = volunteer.lease()
                data = volunteer.train(lease)
                expected += examples / 64 * innovation(volunteer, lease, data, manifest)
                volunteer.deliver(lease, data, examples=examples)
            assert hosted.coordinator.wait_for_version(round_number, 10)

            np.testing.assert_allclose(master(hosted)[NAME].dense(), expected, atol=1e-6)


def test_a_late_update_counts_at_its_weight_against_its_own_start(tmp_path: Path):
    """(1 + τ)^(−½) with τ = 1, beside a fresh one: weights 0.7071 and 1, divided by their sum."""
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 2, **WIDE})) as hosted:
        manifest = hosted.coordinator.desk.site.plan.manifest(0)
        first, second, slow = hosted.cohort(3)
        old = slow.lease()
        late = slow.train(old)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        before = master(hosted)[NAME].dense()
        offered = slow.offer(old.lease_id, late)
        assert offered.verdict == pb.OFFER_VERDICT_WANTED_LATE
        assert offered.staleness_weight == pytest.approx(0.7071, abs=1e-4)

        receipt = slow.receipt(slow.deliver(old, late))
        new = first.lease()
        fresh = first.train(new)
        first.deliver(new, fresh)
        assert hosted.coordinator.wait_for_version(2, 10)

        assert (receipt.round, receipt.version) == (2, 0)
        assert receipt.staleness_weight == pytest.approx(0.7071, abs=1e-4)
        weight = 2**-0.5 / (1 + 2**-0.5)
        expected = before + weight * innovation(slow, old, late, manifest)
        expected += (1 - weight) * innovation(first, new, fresh, manifest)
        np.testing.assert_allclose(master(hosted)[NAME].dense(), expected, atol=1e-6)
        told = {one["version"]: one["weight"] for one in last_entry(hosted, "round_committed")["inputs"]}  # type: ignore[attr-defined]
        assert told == pytest.approx({0: weight, 1: 1 - weight})


def test_an_update_that_waits_is_weighed_anew_when_the_operator_goes_back(tmp_path: Path):
    """It came in as fresh; beside one that starts from what is present now it counts 0.7071 times."""
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 2, **WIDE})) as hosted:
        first, second = hosted.cohort(2)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        assert first.receipt(first.contribute()).staleness_weight == 1.0

        hosted.coordinator.rollback(0)
        second.contribute()
        assert hosted.coordinator.wait_for_version(3, 10)

        told = {one["version"]: one["weight"] for one in last_entry(hosted, "round_committed")["inputs"]}  # type: ignore[attr-defined]
        assert told == pytest.approx({1: 2**-0.5 / (1 + 2**-0.5), 2: 1 / (1 + 2**-0.5)})


def test_an_update_that_waits_counts_no_more_where_going_back_makes_it_too_old(tmp_path: Path):
    """Credited all the same; and its client may try again from where the operator went back to."""
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 2, "max_staleness": 0})) as hosted:
        first, second = hosted.cohort(2)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        first.contribute()

        hosted.coordinator.rollback(0)

        assert hosted.coordinator.status().received == 0
        for volunteer in (first, second):
            assert volunteer.lease().version == 2
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(3, 10)
        given = {one.client_id: (one.credit, one.counted) for one in hosted.coordinator.history().contributions}
        assert given == {first.client_id: (24, 2), second.client_id: (16, 2)}


def test_the_order_of_arrival_changes_no_bit(tmp_path: Path):
    def play(order: Sequence[int]) -> list[bytes]:
        name = "".join(map(str, order))
        with hosting(tmp_path / name, recipe(aggregation={"cohort": 4, "outer": "nesterov"})) as hosted:
            volunteers = hosted.cohort(4)
            for version in (1, 2):
                for seed in order:
                    volunteers[seed].contribute(examples=5 + seed)
                assert hosted.coordinator.wait_for_version(version, 10)
            return [version.checkpoint_digest for version in hosted.coordinator.history().versions]

    first = play((0, 1, 2, 3))

    assert play((3, 1, 0, 2)) == first
    assert play((2, 3, 1, 0)) == first


def test_momentum_outlives_a_restart(tmp_path: Path):
    def play(folder: Path, *, restart: bool) -> bytes:
        terms = recipe(aggregation={"cohort": 1, "outer": "nesterov"})
        with hosting(folder, terms) as hosted:
            volunteer = hosted.volunteer()
            volunteer.contribute()
            assert hosted.coordinator.wait_for_version(1, 10)
            if not restart:
                volunteer.contribute()
                assert hosted.coordinator.wait_for_version(2, 10)
                return hosted.coordinator.status().versions[0].checkpoint_digest
        with hosting(folder, terms, clock=hosted.clock) as hosted:
            again = Volunteer(hosted.invite(), key=volunteer.key, seqno=volunteer.seqno, recipe=volunteer.recipe)
            hosted.volunteers.append(again)
            again.contribute()
            assert hosted.coordinator.wait_for_version(2, 10)
            return hosted.coordinator.status().versions[0].checkpoint_digest

    assert play(tmp_path / "a", restart=True) == play(tmp_path / "b", restart=False)


def test_a_checkpoint_survives_its_own_bytes():
    """To the last bit: what the outer steps remember is state as the master is."""
    rng = np.random.default_rng(0)
    state = State(
        momentum={"a.b": LowRank(rng.normal(size=(4, 1)), rng.normal(size=(1, 3)))},
        moments={"c": Moments(rng.normal(size=(2, 5)), rng.normal(size=(2, 5)))},
        rounds=7,
    )
    whole = Checkpoint({"a.b": LowRank(rng.normal(size=(4, 2)), rng.normal(size=(2, 3))), "c": zero((2, 2))}, state)

    again = read_checkpoint(whole.to_bytes())

    assert again.to_bytes() == whole.to_bytes()
    np.testing.assert_array_equal(again.master["a.b"].dense(), whole.master["a.b"].dense())
    np.testing.assert_array_equal(again.state.momentum["a.b"].dense(), state.momentum["a.b"].dense())
    np.testing.assert_array_equal(again.state.moments["c"].first, state.moments["c"].first)
    np.testing.assert_array_equal(again.state.moments["c"].second, state.moments["c"].second)
    assert again.state.rounds == 7
    assert read_checkpoint(Checkpoint().to_bytes()).state.rounds == 0


def flip(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(flip, "was damaged on this disk"), (Path.unlink, "is gone from this disk"), (Path.touch, "")],
    ids=["a bit", "all of it", "nothing"],
)
def test_a_round_that_cannot_be_combined_is_abandoned_and_the_run_goes_on(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
):
    """An accepted update that the disk lost: no crash loop, credit stays, the next round opens."""
    spool = tmp_path / "run" / "spool"

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.COMPUTE, When.BEFORE) and not rotten:
            rotten.append(next(spool.iterdir()))
            spoil(rotten[0])

    rotten: list[Path] = []
    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 2}), on_step=on_step) as hosted:
        volunteers = hosted.cohort(2)
        for volunteer in volunteers:
            volunteer.contribute()
        for _ in attempts(10):
            first = hosted.coordinator.history().rounds[-1]
            if first.phase in {Phase.ABANDONED, Phase.COMMITTED}:
                break

        assert words in first.reason
        assert (first.phase, first.version) == ((Phase.ABANDONED, None) if words else (Phase.COMMITTED, 1))
        if not words:
            return
        assert last_entry(hosted, "round_abandoned")["round"] == 1
        assert {one.credit for one in hosted.coordinator.history().contributions} == {8}
        for volunteer in volunteers:
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        assert hosted.coordinator.trouble == ""


def test_spooled_updates_are_gone_after_the_commit(hosted: Hosted):
    for volunteer in hosted.cohort(3):
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)

    assert not list((hosted.folder / "spool").iterdir())
    assert not list((hosted.folder / "partial").iterdir())
    with hosted.coordinator.desk.site.store.reading() as books:
        assert {one.state for one in books.intake.of_round(1, UpdateState.COUNTED)} == {UpdateState.COUNTED}


def test_updates_that_arrive_while_others_are_combined_go_into_the_next_round(tmp_path: Path):
    """Protocol, scenario 29: nothing waits for the combining, and staleness counts the version that is coming."""
    seen: list[pb.SubmitReply] = []
    late: list[tuple[Volunteer, pb.Lease]] = []

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.COMPUTE, When.AFTER) and not seen:
            volunteer, lease = late[0]
            seen.append(volunteer.deliver(lease))

    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1}), on_step=on_step) as hosted:
        first, second = hosted.cohort(2)
        late.append((second, second.lease()))
        first.contribute()
        assert hosted.coordinator.wait_for_version(2, 10)

        receipt = second.receipt(seen[0])
        assert (receipt.round, receipt.version) == (2, 0)
        assert receipt.staleness_weight == pytest.approx(2**-0.5)


def test_a_rollback_while_a_round_is_combined_is_built_upon(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The operator moves the master after it was read: the round is combined again, with the version it finds."""
    hosts: list[Hosted] = []

    def on_step(step: Step, when: When) -> None:
        if (step, when) == (Step.BLOB, When.AFTER) and hosts:
            hosts.pop().coordinator.desk.rollback(0)

    with hosting(tmp_path / "run", recipe(aggregation={"cohort": 1}), on_step=on_step) as hosted:
        volunteer = hosted.volunteer()
        volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, 10)
        hosts.append(hosted)
        volunteer.contribute()
        assert hosted.coordinator.wait_for_version(3, 10)

        assert "worker_failed" not in caplog.text
        versions = hosted.coordinator.history().versions
        assert [(v.version, v.parent, v.rolled_back_to, v.round) for v in versions] == [
            (3, 2, None, 2),
            (2, 1, 0, None),
            (1, 0, None, 1),
            (0, None, None, None),
        ]


def test_the_adapter_that_clients_get_is_the_master_in_float32(hosted: Hosted):
    for volunteer in hosted.cohort(3):
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)

    found = published(volunteer.fetch(volunteer.check_in().adapter))

    for name, term in master(hosted).items():
        assert found[name].b.dtype == np.float32
        np.testing.assert_allclose(found[name].dense(), term.dense(), atol=1e-6)
    assert release_folder(hosted.coordinator.desk.site, 1).is_dir()


THREADS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from coordinators import hosting
from scripted import recipe
from threadpoolctl import threadpool_info

def on_step(step, when):
    threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    if (step.name, when.name) in (("SPOOL", "BEFORE"), ("COMPUTE", "INSIDE")):
        print(step.name, *threads, flush=True)

with hosting(Path(sys.argv[2]), recipe(aggregation={"cohort": 1}), on_step=on_step) as hosted:
    hosted.volunteer().contribute()
    hosted.coordinator.wait_for_version(1, 20)
"""


def test_one_thread_adds_up_however_many_the_machine_has(tmp_path: Path):
    """In a process of its own, where BLAS is given two."""
    support = str(Path(__file__).parents[1] / "support")
    told = subprocess.run(
        [sys.executable, "-c", THREADS, support, str(tmp_path / "run")],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split("\n")

    assert "COMPUTE 1" in told
    assert "COMPUTE 2" not in told
