"""What an operator does beside a coordinator: pause it, send a client away."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

from commands import Done
from coordinators import hosting, refused
from potluck.wire.v1.work_pb2 import CheckInReply
from scripted import Volunteer, recipe


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
