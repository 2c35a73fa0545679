"""`potluck simulate` as a person starts it: real training, stopped and gone on with, and beside real volunteers."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import Done, calm_home, notes, potluck, recipe_at, stage
from potluck.aggregation.errors import PotluckError
from potluck.cli.simulating import Simulating, run_simulate
from potluck.client.limits import Limits
from potluck.client.training.completing import completed
from potluck.client.training.together.sequential import SequentialEngine
from potluck.simulations.reports.runs import read_run
from potluck.simulations.running.fleet import LocalFleet
from potluck.simulations.running.kept import Asked, Folder
from potluck.simulations.running.run import Simulation
from potluck.simulations.worlds.availability import present
from potluck.simulations.worlds.base import Person, World
from potluck.simulations.worlds.devices import DEVICES
from potluck.simulations.worlds.tables import Availability
from potluck.wire.recipe import Recipe
from tiny import tiny_base

THREADS = Limits().threads(os.cpu_count() or 1)
SYNCHRONOUS = {"mode": "synchronous", "cohort": 2, "minimum": 2, "over_selection": 1.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def world_at(folder: Path, people: int) -> Path:
    """Write a scenario, and text for so many people, each in a folder."""
    for person in range(people):
        notes(folder / "text" / f"person-{person}", person)
    path = folder / "world.toml"
    path.write_text('name = "neighbours"\n[text]\nsource = "text"\n[[devices]]\nname = "laptop"\n', "utf-8")
    return path


def words(recipe: Path, world: Path, to: Path, **more: object) -> list[object]:
    options = {"clients": 6, "rounds": 3, "workers": 1, "scenario": world, "folder": to, **more}
    flat = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["simulate", recipe, *flat]


def digest(done: Done) -> str:
    assert done.status == 0, done.err
    assert done.lines[-1]["event"] == "done"
    return str(done.lines[-1]["digest"])


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory) -> tuple[Path, Path, Path, str]:
    """Return recipe, world, folder and digest of a run of three rounds."""
    at = tmp_path_factory.mktemp("whole")
    recipe, world = recipe_at(at / "recipe.toml", base, aggregation=SYNCHRONOUS), world_at(at, 6)
    done = potluck(*words(recipe, world, at / "run"), "--json", home=at / "home")
    return recipe, world, at / "run", digest(done)


def test_a_simulated_run_learns_and_leaves_a_report(whole: tuple[Path, Path, Path, str]):
    """The shared adapter gets better on the clients' held-out text, round by round."""
    run = read_run(whole[2])

    losses = [run.base_loss, *(row.loss for row in run.rounds)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.02
    assert [row.updates for row in run.rounds] == [2, 2, 2]
    assert (whole[2] / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_run_that_was_stopped_goes_on_to_the_same_master(
    whole: tuple[Path, Path, Path, str], tmp_path: Path, number: signal.Signals
):
    recipe, world, _, expected = whole
    with stage(tmp_path) as at:
        running = at.start(*words(recipe, world, tmp_path / "run", rounds=60), home=tmp_path / "home")
        running.told("round", round=1)
        running.send(number)
        stopped = running.end()
    assert stopped.status != 0
    if number is signal.SIGINT:
        assert "rounds are on the disk" in stopped.err
        assert "--resume" in stopped.err
    played = len(read_run(tmp_path / "run").rounds)
    if played > 3:
        pytest.fail(f"it was stopped after {played} rounds, too late to compare")
    again = potluck(*words(recipe, world, tmp_path / "run"), "--resume", "--json", home=tmp_path / "home")

    assert digest(again) == expected


def asked(recipe: Path, world: Path, to: Path) -> Simulating:
    """Return what the command asks for when a person says little."""
    return Simulating(
        recipe=recipe,
        clients=6,
        rounds=1,
        scenario=str(world),
        attack="",
        attack_share=0.2,
        folder=to,
        engine="batched",
        dtype="native",
        workers=1,
        threads=1,
        at_once=None,
        measured=0,
        measure_every=1,
        own_losses=False,
        ray_address=None,
        resume=False,
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clients": 1}, "1 clients, and a round waits for updates of 2"),
        ({"clients": 7}, "7"),
        ({"scenario": "stedy"}, "no scenario is called 'stedy'"),
        ({"attack": "ipm", "attack_share": 0.1}, "is nobody"),
        ({"workers": 99}, "99 workers with 1 threads each"),
        ({"engine": "quick"}, "no engine is called 'quick'"),
        ({"scenario": "."}, "is a folder, and a scenario is a .toml file"),
        ({"resume": True}, "holds no run to go on with"),
    ],
    ids=[
        "too few",
        "too little text",
        "no scenario",
        "no attack",
        "too many workers",
        "no engine",
        "a folder",
        "nothing there",
    ],
)
def test_what_cannot_be_simulated_is_refused_with_a_fix(
    whole: tuple[Path, Path, Path, str], tmp_path: Path, change: dict[str, Any], told: str
):
    with pytest.raises(PotluckError, match=told) as refused:
        run_simulate(replace(asked(whole[0], whole[1], tmp_path / "run"), **change), as_json=True)
    assert any(note.startswith("fix: ") for note in refused.value.__notes__)


def test_fewer_rounds_than_there_are_are_refused_and_ctrl_c_is_as_before(whole: tuple[Path, Path, Path, str]):
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(PotluckError, match="has 3 rounds already, and 2 were asked for"):
        run_simulate(replace(asked(whole[0], whole[1], whole[2]), rounds=2, resume=True), as_json=True)

    assert signal.getsignal(signal.SIGINT) is before


def test_a_missing_model_is_refused_with_a_fix(whole: tuple[Path, Path, Path, str], tmp_path: Path):
    recipe = recipe_at(tmp_path / "recipe.toml", tmp_path / "nowhere")
    with pytest.raises(PotluckError, match="nowhere") as refused:
        run_simulate(asked(recipe, whole[1], tmp_path / "run"), as_json=True)
    assert refused.value.__notes__
    assert not (tmp_path / "run").exists()


def test_the_same_recipe_through_real_processes_gives_the_same_master(base: Path, tmp_path: Path):
    """Two volunteers over gRPC, and the same two simulated: same names, text and seeds, same digest of the master."""
    path, real = recipe_at(tmp_path / "recipe.toml", base, aggregation=SYNCHRONOUS), tmp_path / "real"
    with stage(tmp_path) as at:
        host = at.start("host", path, "--folder", real, "--listen", "127.0.0.1:0", home=tmp_path)
        invite = host.told("listening")["invite"]
        joined = []
        for seed, name in enumerate(("ann", "bob"), start=1):
            home, data = calm_home(tmp_path / name / "home"), notes(tmp_path / name / "notes", seed)
            joined.append(at.start("join", invite, "--data", data, "--name", name, "--yes", home=home))
        for volunteer in joined:
            done = volunteer.end()
            assert done.status == 0, done.err
        lines = potluck("history", "--folder", real, "--json", home=tmp_path).lines
    expected = {line["version"]: line["checkpoint_digest"] for line in lines if "checkpoint_digest" in line}
    ids = {line["name"]: line["client_id"] for line in lines if "client_id" in line}

    people = tuple(Person(ids[name], tmp_path / name / "notes", DEVICES["laptop"]) for name in ("ann", "bob"))
    recipe = completed(Recipe.read(path), tmp_path / "cache")
    fleet = LocalFleet(SequentialEngine(tmp_path / "cache", threads=THREADS))
    wanted = Asked(clients=2, at_once=2, engine="sequential")
    folder = Folder(tmp_path / "simulated")
    folder.begin(recipe.to_json(), "{}", wanted)
    always = present(Availability(), seed=0)
    run = Simulation(folder, recipe, World(people, always), wanted, fleet)

    for row in run.play(2):
        assert run.digest == expected[row.version], f"version {row.version}"
    assert run.table.standing.version == 2
