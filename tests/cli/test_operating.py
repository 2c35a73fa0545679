"""What an operator does beside a coordinator: pause it, send a client away."""

from collections.abc import Callable
from pathlib import Path

from commands import Done
from coordinators import hosting, refused
from scripted import recipe


def test_a_paused_run_gives_out_no_work(command: Callable[..., Done], tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        volunteer = host.volunteer()

        paused = command("pause", "--folder", tmp_path / "run")
        answer = volunteer.check_in()
        resumed = command("resume", "--folder", tmp_path / "run")
        host.clock.time_s += 1  # what another process wrote is seen within half a second

        assert (paused.status, resumed.status) == (0, 0)
        assert answer.WhichOneof("answer") == "no_work"
        assert "paused" in answer.no_work.human
        assert volunteer.check_in().WhichOneof("answer") == "lease"


def test_a_removed_client_gets_nothing_more(command: Callable[..., Done], tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as host:
        volunteer = host.volunteer()

        removed = command("remove", volunteer.client_id, "--folder", tmp_path / "run")
        again = command("remove", "nobody", "--folder", tmp_path / "run")

        assert removed.status == 0
        assert (again.status, again.fixes) == (1, ["fix: see `potluck history` for the clients"])
        with refused("not_a_member"):
            volunteer.check_in()
