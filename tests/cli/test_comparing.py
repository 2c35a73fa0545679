"""`potluck compare`: tables for people, one object for programs, and a plain word where there is nothing to compare."""

import json
from pathlib import Path

import pytest

from simulated import MadeUp, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    made = {
        "clean": MadeUp(clients=20, rounds=6),
        "attacked": MadeUp(clients=20, rounds=6, hostile=0.2, harm=0.4, attack="sign_flip"),
    }
    return [write_run(tmp_path / "runs" / name, each) for name, each in made.items()]


def test_people_get_the_three_tables_and_a_page(command, runs, tmp_path):
    done = command("compare", *runs, "--to", "beside")

    assert done.status == 0, done.said
    assert done.err == ""
    for title in ("Quality under a budget", "Cost to a target", "Robustness", "What differs between them"):
        assert title in done.out
    assert "scenario.attack" in done.out
    assert f"written: {Path('beside') / 'compare.html'}" in done.out
    assert sorted(file.name for file in (tmp_path / "beside").iterdir()) == ["compare.html", "compare.png"]


def test_programs_get_one_object(command, runs):
    done = command("compare", *runs, "--json", "--target", "2.9", "--bytes", "5e6", "--hours", "1", "--tokens", "9000")

    assert done.status == 0, done.said
    (told,) = done.lines
    assert [run["run"] for run in told["runs"]] == ["clean", "attacked"]
    assert told["cost_to_target"]["target"] == 2.9
    budgets = [(each["cost"], each["budget"]) for each in told["quality_under_budget"]]
    assert budgets == [("bytes", 5e6), ("hours", 1.0), ("tokens", 9000.0)]
    assert told["robustness"][0]["beside"] == "clean"
    assert Path(told["page"]).name == "compare.html"
    json.dumps(told, allow_nan=False)


def test_what_cannot_be_compared_is_said_and_nothing_written(command, runs, tmp_path):
    other = write_run(tmp_path / "runs" / "other", MadeUp(clients=20, rounds=6, base="another base"))
    cases = {
        "1 run is given": [runs[0]],
        "is no folder": [runs[0], "nowhere"],
        "holds no run: 5 of its 5 files are missing": [runs[0], tmp_path],
        "clean and other cannot be compared: their base models are": [runs[0], other],
    }
    for said, words in cases.items():
        done = command("compare", *words)

        assert done.status == 1
        assert said in done.err
        assert len(done.fixes) == 1
        assert done.out == ""
    assert not (tmp_path / "potluck-compare").exists()


def test_names_of_folders_cannot_drive_the_terminal(command, runs):
    odd = runs[0].rename(runs[0].with_name("\x1b[31mred"))

    done = command("compare", odd, runs[1])

    assert done.status == 0
    assert "\x1b" not in done.said
    assert "\N{REPLACEMENT CHARACTER}[31mred" in done.out
