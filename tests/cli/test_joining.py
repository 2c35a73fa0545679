"""What `potluck join` keeps, and when: a join that failed or was declined leaves nothing switched on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import Done
from coordinators import Hosted, hosting
from potluck.cli.joining import Joining, keep_flagged, newly
from potluck.client.home import Home
from potluck.client.limits import Limits, limits_at
from potluck.client.outbox.store import Outbox
from scripted import recipe


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    with hosting(tmp_path / "run", recipe()) as made:
        yield made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of which one sample is flagged."""
    notes = tmp_path / "notes"
    notes.mkdir()
    for i in range(6):
        (notes / f"{i}.txt").write_text(f"note {i} about hens and {i * i} foxes", "utf-8")
    (notes / "card.txt").write_text("My card is 4111 1111 1111 1111.", "utf-8")
    return notes


def test_a_declined_join_does_not_keep_flagged_samples(
    command: Callable[..., Done], home: Path, hosted: Hosted, text: Path
):
    done = command("join", hosted.invite(), "--data", text, "--keep-flagged")

    assert "nobody is here to agree" in done.err
    assert "all are trained on, as you wished; leave them out again" in done.out  # the card is of what was asked for
    assert not limits_at(Home.at(home).limits).keep_flagged


def test_a_failed_join_does_not_keep_flagged_samples(command: Callable[..., Done], home: Path, text: Path):
    done = command("join", "potluck1.AAAA", "--data", text, "--yes", "--keep-flagged")

    assert done.status == 1
    assert not limits_at(Home.at(home).limits).keep_flagged


def test_flagged_samples_are_counted_as_they_will_be_trained_on(tmp_path: Path, hosted: Hosted, text: Path):
    """What is agreed to and what the coordinator hears is with them where they are kept."""
    counts = []
    for keeps in (False, True):
        home = Home.at(tmp_path / f"home-{keeps}")
        outbox = Outbox.open(home.outbox)
        asked = Joining(hosted.invite(), text, "", yes=True, keep_flagged=keeps)
        member = newly(asked, asked.invite, None, home, outbox, as_json=True)
        outbox.close()
        assert member is not None
        counts.append(member.examples)

    assert counts[1] == counts[0] + 1


def test_whoever_has_too_little_text_for_a_private_run_hears_it_before_joining(
    command: Callable[..., Done], home: Path, tmp_path: Path, text: Path
):
    pytest.importorskip("dp_accounting")
    unit = {"unit": "example", "epsilon": 1.0, "noise": 1.5, "participations": 2}
    with hosting(tmp_path / "private", recipe(privacy={"differential": unit})) as hosted:
        done = command("join", hosted.invite(), "--data", text, "--yes")

    assert done.status == 1
    assert "ERROR  privacy: one more round would bring epsilon from 0.000 to" in done.out
    assert "name more with --data" in done.out
    assert "not joined: 1 of" in done.err
    assert not Home.at(home).key.exists()  # nothing was made, nobody was asked


def test_that_they_are_kept_is_written_down_and_told_to_stay(tmp_path: Path, capsys):
    home = Home.at(tmp_path / "home")
    Limits(core_share=0.25).write(home.limits)

    keep_flagged(home, as_json=False)

    assert limits_at(home.limits) == Limits(core_share=0.25, keep_flagged=True)
    assert "by `potluck personalize` too; leave them out again with: potluck limits keep_flagged=false" in (
        capsys.readouterr().out
    )
    keep_flagged(home, as_json=False)  # it is so already
    assert capsys.readouterr().out == ""
