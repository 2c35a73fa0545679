"""A run read back: what it came to, who counted for less than it claimed, and what is no run."""

import math
from pathlib import Path

import pytest

from potluck.aggregation.errors import BadSetting
from potluck.simulations.reports.runs import NotARun, mean, read_run
from potluck.simulations.reports.tables import BadTable
from potluck.simulations.reports.weighed import weighed, weighed_down
from simulated import MadeUp, client_row, recipe_of, round_row, run_of, update_row, write_run

NAN = math.nan
FILES = ("clients.parquet", "recipe.json", "rounds.parquet", "scenario.json", "updates.parquet")


def test_a_run_is_read_as_it_was_written(tmp_path: Path):
    run = read_run(write_run(tmp_path / "run", MadeUp(clients=30, rounds=5, cohort=6)))

    assert [row.round for row in run.rounds] == [1, 2, 3, 4, 5]
    assert len(run.clients) == 30
    assert sum(row.outcome == "counted" for row in run.updates) == sum(row.updates for row in run.rounds) == 30
    assert run.recipe == recipe_of(MadeUp(cohort=6))
    assert run.scenario == {"seed": 0, "attack": ""}


def test_what_a_run_came_to_by_hand():
    """Losses by bytes of text: (2·100 + 4·300) / 400 = 3.5; who was not measured does not count."""
    run = run_of(
        rounds=[
            round_row(1, 3.0, leases=4, updates=2, dropped=1, hostile=1, ended_h=1.0),
            round_row(2, NAN, leases=4, updates=2, dropped=3, ended_h=2.5),
            round_row(3, 2.5, leases=2, updates=2, ended_h=3.0),
            round_row(4, math.inf, ended_h=3.5, updates=2),
        ],
        clients=[client_row("a", loss_base=2.0), client_row("b", loss_base=4.0, bytes_of_text=300), client_row("c")],
    )

    assert run.base_loss == 3.5
    assert run.best_loss == 2.5
    assert run.last_loss == math.inf  # it diverged, and that was measured
    assert [row.round for row in run.measured] == [1, 3, 4]
    assert run.hours == 3.5
    assert run.lost == 0.4
    assert run.hostile == 0.125


def test_a_run_without_rounds_has_no_losses_and_no_shares():
    run = run_of()

    assert math.isnan(run.base_loss)
    assert math.isnan(run.best_loss)
    assert math.isnan(run.last_loss)
    assert (run.hours, run.lost, run.hostile) == (0, 0, 0)
    assert math.isnan(mean([(NAN, 1.0), (2.0, 0.0)]))


def test_who_lost_most_of_what_it_claimed_comes_first():
    """By hand: a claimed 0.5 + 0.4 and counted 0.05 + 0.04, nine tenths lost; b gained; c lost a fiftieth."""
    run = run_of(
        updates=[
            update_row("b", 0.5, 0.95),
            update_row("a", 0.5, 0.05, reason="points away", hostile=True),
            update_row("a", 0.4, 0.04, reason="points away"),
            update_row("a", NAN, NAN, outcome="late", reason="the round was over"),
            update_row("c", 0.5, 0.49),
            update_row("d", 0.1, 0.1, reason="longer than the bound"),
        ],
        clients=[client_row("a", device="phone"), client_row("b")],
    )

    a, c, d, b = weighed(run)

    assert (a.client, a.device, a.hostile, a.updates, a.reason) == ("a", "phone", True, 2, "points away")
    assert (a.claimed, a.counted) == pytest.approx((0.9, 0.09))
    assert a.lost == pytest.approx(0.9)
    assert (c.client, d.client, b.client) == ("c", "d", "b")
    assert b.lost == pytest.approx(-0.9)
    assert [each.client for each in weighed_down(run)] == ["a", "d"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_lacks_a_file_is_no_run(tmp_path: Path, name: str):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()

    with pytest.raises(NotARun, match=f"1 of its 5 files are missing: {name}") as refused:
        read_run(folder)
    assert "potluck simulate" in refused.value.__notes__[0]


def test_what_is_no_folder_is_no_run(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("", "utf-8")
    for path in (file, tmp_path / "nowhere"):
        with pytest.raises(NotARun, match="is no folder"):
            read_run(path)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("scenario.json", "[]", NotARun),
        ("scenario.json", "{", NotARun),
        ("recipe.json", "{}", BadSetting),
        ("rounds.parquet", "PAR1", BadTable),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, kind: type):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text, "utf-8")

    with pytest.raises(kind, match="run.name is missing|run is missing" if kind is BadSetting else name):
        read_run(folder)
