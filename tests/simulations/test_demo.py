"""The demonstration: what it deletes, what it adds up, and (marker real_model) that it shows what it claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import environment
from potluck.client.home import cache_of_user
from potluck.simulations.demo import MARK, ROLES, Demonstration, Measured, Moment, NotOurs, Outcome, recipe_file
from potluck.simulations.texts import pick, plays, shakespeare
from potluck.wire.recipe import Recipe

DEMO_S = 3_600.0


def test_a_folder_with_something_else_in_it_is_not_deleted(tmp_path: Path):
    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "photo.jpg").write_bytes(b"\xff\xd8")

    with pytest.raises(NotOurs, match="holiday holds something else") as caught:
        Demonstration(holiday, lambda _: pytest.fail("it began")).run()

    assert [path.name for path in holiday.iterdir()] == ["photo.jpg"]
    assert caught.value.__notes__ == ["fix: name another folder: --folder FOLDER"]


@pytest.mark.parametrize("before", ["an earlier demonstration", "an empty folder"])
def test_a_folder_of_its_own_is_made_anew(tmp_path: Path, monkeypatch, before: str):
    """It stops where the base model would be looked for: at a cache that cannot be one."""
    folder = tmp_path / "demo"
    folder.mkdir()
    if before == "an earlier demonstration":
        (folder / MARK).touch()
        (folder / "old").mkdir()
        (folder / "old" / "log").write_text("from before", "utf-8")
    (tmp_path / "cache").write_text("no folder", "utf-8")
    monkeypatch.setenv("POTLUCK_CACHE", str(tmp_path / "cache"))

    with pytest.raises(FileExistsError):
        Demonstration(folder, lambda _: pytest.fail("it got further")).run()

    assert [path.name for path in folder.iterdir()] == [MARK]


def test_over_all_each_volunteer_weighs_what_its_text_does():
    """A volunteer with three times the text counts three times; a mean of means would say 2.5 and 1.5."""
    outcome = Outcome(
        volunteers=(
            Measured("ann", tokens=300, losses={"base": 2.0, "shared": 1.0}),
            Measured("bob", tokens=100, losses={"base": 3.0, "shared": 2.0}),
        ),
        versions=3,
        release=Path("release"),
        prompt="",
        replies={},
    )

    assert outcome.over_all("base") == pytest.approx((300 * 2 + 100 * 3) / 400)
    assert outcome.over_all("shared") == pytest.approx(1.25)


def test_the_recipe_of_the_demonstration_is_one_and_has_a_seat_for_everybody():
    recipe = Recipe.read(recipe_file())

    assert recipe.aggregation.cohort == len(ROLES) == len(set(ROLES))
    assert recipe.run.versions > 0


def test_moments_say_how_far_it_is():
    assert Moment("preparing", 1, 3).news == ""


@pytest.mark.real_model
def test_every_role_is_in_the_plays_and_says_enough(tmp_path: Path):
    """Fetches the plays, 2 MB, where they are not here yet."""
    roles = shakespeare(plays(cache_of_user({"POTLUCK_CACHE": str(tmp_path)})))

    for role in pick(roles, ROLES):
        assert sum(map(len, roles[role])) > 5_000, role


@pytest.mark.real_model
@pytest.mark.timeout(DEMO_S)
def test_the_demonstration_shows_what_it_claims(tmp_path: Path):
    """The whole of it, with the real model: together is better than the base for everybody, and than alone over all."""
    folder = tmp_path / "demo"
    shared_cache = {"POTLUCK_CACHE": str(cache_of_user({}))}  # 640 MB that one does not fetch and convert twice

    done = subprocess.run(
        [sys.executable, "-m", "potluck.cli", "demo", "--folder", str(folder), "--json"],
        capture_output=True,
        text=True,
        env={name: value for name, value in environment(tmp_path / "home").items() if name != "HF_HUB_OFFLINE"}
        | shared_cache,
        timeout=DEMO_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-4_000:]
    *moments, outcome = [json.loads(line) for line in done.stdout.splitlines()]
    assert {moment["event"] for moment in moments} == {"moment"}
    assert outcome["event"] == "outcome"
    assert outcome["versions"] == Recipe.read(recipe_file()).run.versions
    assert len(outcome["volunteers"]) == len(ROLES)
    for volunteer in outcome["volunteers"]:
        assert volunteer["losses"]["shared"] < volunteer["losses"]["base"], volunteer
        assert volunteer["sent"] > 0, volunteer
        assert volunteer["kept"] > 0, volunteer
    assert outcome["over_all"]["shared"] < outcome["over_all"]["alone"], outcome
    assert (Path(outcome["release"]) / "adapter_model.safetensors").exists()
    assert set(outcome["replies"]) == {"base", "shared"}
