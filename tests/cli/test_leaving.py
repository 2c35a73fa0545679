"""`potluck leave --purge` says what goes for good, what stays, and why; and does just that."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands import Done
from coordinators import hosting
from fakes import Client
from potluck.cli.app import app
from potluck.client.accounting import Spending
from potluck.client.errors import BadLedger
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.ledger import Ledger
from potluck.client.outbox.store import Outbox, joined
from scripted import recipe


def furnished(home: Home) -> None:
    """Put a ledger and a personal adapter there, as a private run and `personalize` leave them."""
    home.ledger.write_text("{}\n", "utf-8")
    home.personal("run").parent.mkdir()
    home.personal("run").write_bytes(b"sealed")


def test_a_purge_is_asked_about_with_all_that_it_means(command: Callable[..., Done], home: Path, tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as hosted:
        Client(tmp_path, seed=1).enrol(hosted.invite())
        here = Home.at(home)
        furnished(here)

        asked = CliRunner().invoke(app, ["leave", "--purge"], input="n\n")
        assert "Key, receipts and work are removed" in asked.output
        assert "Your personal adapter is removed too, for good." in asked.output
        assert "(ledger.jsonl) stays: it cannot be untold" in asked.output
        assert "nothing changed" in asked.output
        assert here.personal("run").exists()

        done = command("leave", "--purge", "--yes")

    assert done.status == 0
    assert f"and so does {here.ledger}: what was told cannot be taken back" in done.out
    assert sorted(path.name for path in home.iterdir()) == ["cache", "ledger.jsonl"]


def test_a_home_that_left_already_can_be_purged(command: Callable[..., Done], home: Path):
    """As after `leave` while a session ran: it is told to ask once more."""
    furnished(Home.at(home))

    done = command("leave", "--purge", "--yes")

    assert (done.status, "you left" in done.out) == (0, False)
    assert sorted(path.name for path in home.iterdir()) == ["cache", "ledger.jsonl"]


@pytest.mark.usefixtures("command")
def test_leaving_says_that_a_personal_adapter_loses_what_it_is_over(home: Path, tmp_path: Path):
    with hosting(tmp_path / "run", recipe()) as hosted:
        member = Client(tmp_path, seed=1).enrol(hosted.invite())
        plain = CliRunner().invoke(app, ["leave"], input="n\n")
        assert "export --personal" not in plain.output
        Home.at(home).personal(member.run_id).parent.mkdir()
        Home.at(home).personal(member.run_id).write_bytes(b"sealed")

        asked = CliRunner().invoke(app, ["leave"], input="n\n")

    assert "first: potluck export --personal --to FOLDER" in asked.output


@pytest.mark.usefixtures("command")
def test_a_ledger_is_still_watched_after_a_purge(home: Path):
    """The home becomes another client, and its ledger's witness stays the one of the first."""
    here = Home.at(home)

    def opened() -> Ledger:
        return Ledger.open(here.ledger, here.witness(identity_at(here.key).client_id))

    opened().charge("run", bytes(16), Spending(200, 32, 1.5, 10), "5e" * 32, 1.0)
    backup = here.ledger.read_bytes()
    opened().charge("run", bytes(16), Spending(200, 32, 1.5, 10), "07" * 32, 2.0)
    ids = []
    for _ in range(2):  # a second purge changes nothing about it
        ids.append(identity_at(here.key).client_id)
        assert CliRunner().invoke(app, ["leave", "--purge", "--yes"]).exit_code == 0
        here = Home.at(home)
    assert len(set(ids)) == 2
    assert opened().length == 3

    here.ledger.write_bytes(backup)
    with pytest.raises(BadLedger, match=r"has 2 lines, and its witness .* has seen 3"):
        opened()
    here.ledger.unlink()
    with pytest.raises(BadLedger, match="has 0 lines"):
        opened()


def test_where_nothing_was_nothing_is_said_to_be_removed(command: Callable[..., Done], home: Path):
    bare = command("leave", "--purge", "--yes")
    assert (bare.status, "there was nothing of yours in" in bare.out) == (0, True)

    Home.at(home).limits.write_text("nice = 5\n", "utf-8")
    done = command("leave", "--purge", "--yes")
    assert "removed what was in" in done.out


def test_a_purge_while_a_personal_adapter_is_made_changes_nothing(
    command: Callable[..., Done], home: Path, tmp_path: Path
):
    with hosting(tmp_path / "run", recipe()) as hosted:
        member = Client(tmp_path, seed=1).enrol(hosted.invite())

        with Home.at(home).personalizing():
            done = command("leave", "--purge", "--yes")

        assert done.status == 1
        assert "`potluck personalize` works in" in done.err
        outbox = Outbox.open(Home.at(home).outbox)
        assert joined(outbox) == member  # it did not leave either
        outbox.close()


def test_a_home_in_no_run_has_nothing_to_leave(command: Callable[..., Done]):
    done = command("leave", "--yes")

    assert done.status == 1
    assert "a member of no run" in done.err
