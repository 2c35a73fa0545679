"""What an operator does beside a coordinator: pause it, send a client away."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from commands import Done
from coordinators import hosting, refused
from judges import ScriptedJudge
from potluck.coordinator.probe import Probe
from potluck.wire.v1.work_pb2 import CheckInReply
from scripted import Volunteer, attempts, enlarged, recipe

DEFENDED = {"cohort": 6, "weights": ["examples", "staleness", "cap", "norm_bound", "nnm", "geomedian"]}
PLAIN = {"cohort": 6, "weights": ["examples", "staleness"]}


def shout(volunteers: Sequence[Volunteer]) -> None:
    """Let all contribute, the first of them fifty times what it trained."""
    for place, volunteer in enumerate(volunteers):
        lease = volunteer.lease()
        data = volunteer.train(lease)
        volunteer.deliver(lease, data if place else enlarged(data, 50))


def answered(volunteer: Volunteer, kind: str) -> CheckInReply:
    """Check in until the answer is of that *kind*: what another process wrote is heard within half a second."""
    pause = Event()
    for _ in range(100):
        reply = volunteer.check_in()
        if reply.WhichOneof("answer") == kind:
            return reply
        pause.wait(0.1)
    raise AssertionError(f"never answered {kind}")


def test_a_paused_run_gives_out_no_work(command: Callable[..., Done], tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        volunteer = host.volunteer()

        paused = command("pause", "--folder", tmp_path / "run")
        answer = answered(volunteer, "no_work")
        resumed = command("resume", "--folder", tmp_path / "run")

        assert (paused.status, resumed.status) == (0, 0)
        assert "paused" in answer.no_work.human
        assert answered(volunteer, "lease").lease.lease_id


def test_a_removed_client_gets_nothing_more(command: Callable[..., Done], tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        volunteer = host.volunteer()

        removed = command("remove", volunteer.client_id, "--folder", tmp_path / "run")
        again = command("remove", "nobody", "--folder", tmp_path / "run")

        assert removed.status == 0
        assert (again.status, again.fixes) == (1, ["fix: see `potluck history` for the clients"])
        with refused("not_a_member"):
            volunteer.check_in()


def test_the_operator_sees_who_was_weighted_down_and_which_version_was_refused(
    command: Callable[..., Done], tmp_path: Path
):
    """Round 1 with the default weights takes a shout for what it is; with none at all the probe has to refuse it."""
    folder = tmp_path / "run"
    with hosting(folder, recipe(aggregation=DEFENDED), probe=Probe(ScriptedJudge())) as host:
        volunteers = host.cohort(6)
        shout(volunteers)
        assert host.coordinator.wait_for_version(1, 10)
    with hosting(folder, recipe(aggregation=PLAIN), clock=host.clock, probe=Probe(ScriptedJudge())) as host:
        again = [Volunteer(host.invite(), one.seed, key=one.key, seqno=one.seqno) for one in volunteers]
        host.volunteers.extend(again)
        for volunteer in again:
            volunteer.enroll()
        shout(again)
        for _ in attempts(10):
            if host.coordinator.status().last.round == 2:
                break
    loud = volunteers[0].client_id[:8]

    history = command("history", "--folder", folder)
    status = command("status", "--folder", folder)
    told = command("history", "--folder", folder, "--json").lines
    now = command("status", "--folder", folder, "--json").lines[0]["last_round"]

    assert "round 2: refused, version 1 stays; loss on the probe 2.0000 before" in history.out
    (row,) = [line for line in history.out.splitlines() if line.startswith("1 ") and loud in line]
    assert "16.7%" in row
    assert "times as long as the median update" in row
    assert "2: refused, version 1 stays" in status.out
    assert (now["round"], now["phase"], now["probe"]["loss_before"]) == (2, "refused", 2.0)
    rounds = {line["ended"]["round"]: line["ended"] for line in told if "ended" in line}
    assert rounds.keys() == {1, 2}
    assert any(one["client"] == loud and one["weighted_down"] for one in rounds[1]["inputs"])
