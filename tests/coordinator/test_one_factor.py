"""Rounds that train one factor: the manifest of a version, the other factor from the start, late ones by rule."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from coordinators import FakeClock, hosting
from potluck.aggregation import decode, encode, from_tensors
from potluck.coordinator.checkpoints import TRUSTED
from potluck.coordinator.opening import OtherRecipe
from potluck.coordinator.server import Coordinator
from potluck.wire.tensors import Manifest
from potluck.wire.v1 import work_pb2 as pb
from scripted import MODULES, recipe

DEADLINE_S = 10.0


def one_factor(rule: str, **tables):
    return recipe(aggregation={"rule": rule, "cohort": 2, "weights": ["examples", "staleness"]}, **tables)


@pytest.mark.parametrize(("rule", "moves"), [("ffa", "bbb"), ("rolora", "bab")])
def test_every_version_is_the_exact_sum_of_what_moved(tmp_path: Path, rule: str, moves: str):
    """Three rounds against dense arithmetic: the factor that did not travel is the start's, on both sides."""
    total = {name: np.zeros(shape) for name, shape in MODULES.items()}
    with hosting(tmp_path / "run", one_factor(rule)) as hosted:
        volunteers = hosted.cohort(2)
        for version in range(3):
            for volunteer, examples in zip(volunteers, (8, 24), strict=True):
                lease = volunteer.lease()
                begun, data = volunteer.started(lease), volunteer.train(lease)
                sent = decode(data, limits=TRUSTED)
                assert set(sent) == {f"{name}.lora_{moves[version].upper()}" for name in MODULES}
                for name, term in begun.items():
                    change = sent[f"{name}.lora_{moves[version].upper()}"].astype(float)
                    moved = change @ term.a if moves[version] == "b" else term.b @ change
                    total[name] += examples / 32 * term.scale * moved
                assert volunteer.deliver(lease, data, examples=examples).verdict == pb.VERDICT_ACCEPTED
            assert hosted.coordinator.wait_for_version(version + 1, DEADLINE_S)
        lease = volunteers[0].lease()
        published = from_tensors(decode(volunteers[0].fetch(lease.adapter), limits=TRUSTED))

    for name, term in published.items():
        assert term.rank == 2
        assert np.linalg.norm(total[name]) > 0.1
        assert np.linalg.norm(term.dense() - total[name]) <= 1e-5 * np.linalg.norm(total[name])


def test_an_update_from_before_a_turn_of_the_factors_does_not_count_and_is_credited(tmp_path: Path):
    """It trained B against an A that is another one by now, and its round would be refused with it."""
    with hosting(tmp_path / "run", one_factor("rolora")) as hosted:
        first, second, slow = hosted.cohort(3)
        old = slow.lease()
        late = slow.train(old)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, DEADLINE_S)

        reply = slow.deliver(old, late)

        assert reply.verdict == pb.VERDICT_TOO_LATE
        assert slow.receipt(reply).credit > 0
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(2, DEADLINE_S)


def test_a_late_update_against_a_kept_factor_counts(tmp_path: Path):
    """Under ffa A is the same in version 1, so what was trained from version 0 adds up with what is new."""
    with hosting(tmp_path / "run", one_factor("ffa")) as hosted:
        first, second, slow = hosted.cohort(3)
        old = slow.lease()
        late = slow.train(old)
        for volunteer in (first, second):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, DEADLINE_S)

        assert slow.deliver(old, late).verdict == pb.VERDICT_ACCEPTED
        first.contribute()

        assert hosted.coordinator.wait_for_version(2, DEADLINE_S)


@pytest.mark.parametrize(
    ("claimed", "code", "says"), [(0, "wrong_manifest", "another tensor"), (1, "bad_tensor", "lora_B")]
)
def test_tensors_of_the_other_parity_are_rejected(tmp_path: Path, claimed: int, code: str, says: str):
    """By the digest of the manifest that the client says it kept to, and by the tensors if that is not true."""
    with hosting(tmp_path / "run", one_factor("rolora")) as hosted:
        for volunteer in hosted.cohort(2):
            volunteer.contribute()
        assert hosted.coordinator.wait_for_version(1, DEADLINE_S)
        volunteer = hosted.volunteer(7)
        lease = volunteer.lease()
        assert lease.manifest_digest == Manifest.of(volunteer.recipe, 1).digest()
        even = Manifest.of(volunteer.recipe, 0)
        data = encode({name: np.ones(shape, np.float32) for name, shape in even.entries}, "fp32")
        volunteer.upload(volunteer.offer(lease.lease_id, data), data)

        reply = volunteer.submit(lease.lease_id, data, version=claimed)

    assert reply.verdict == pb.VERDICT_REJECTED
    assert reply.rejected.code == code
    assert says in reply.rejected.human


def test_a_rule_that_needs_other_tensors_cannot_take_over_a_run(tmp_path: Path):
    """Updates under way hold what the old rule's clients trained; a rule with the same tensors may."""
    with hosting(tmp_path / "run", recipe()):
        pass

    with pytest.raises(OtherRecipe, match=r"aggregation\.rule: 'mean' became 'ffa'"):
        Coordinator.open(tmp_path / "run", recipe(aggregation={"rule": "ffa"}))
    Coordinator.open(tmp_path / "run", recipe(aggregation={"rule": "flora"})).stop()


@pytest.mark.parametrize("outer", ["fedadam", "fedavgm"])
def test_what_an_outer_step_remembers_survives_a_restart(tmp_path: Path, outer: str):
    """Three versions of ffa, with a restart before each and with none: the same bytes are published.

    The moments of an element-wise step are in the basis of A, which is kept; so is the master's, in the checkpoint.
    """
    stated = recipe(aggregation={"rule": "ffa", "cohort": 2, "outer": outer, "settings": {"eta": 0.05}})
    digests = {}
    for name, restarts in (("straight", False), ("restarted", True)):
        clock = FakeClock()
        made = []
        with ExitStack() as stack:
            hosted = stack.enter_context(hosting(tmp_path / name, stated, clock=clock))
            for version in range(3):
                if restarts and version:
                    stack.close()
                    hosted = stack.enter_context(hosting(tmp_path / name, stated, clock=clock))
                for volunteer in hosted.cohort(2):
                    volunteer.contribute(examples=8 + volunteer.seed)
                assert hosted.coordinator.wait_for_version(version + 1, DEADLINE_S)
                made.append(hosted.volunteer(9).lease().adapter.digest)
        digests[name] = made

    assert digests["straight"] == digests["restarted"]
    assert len(set(digests["straight"])) == 3
