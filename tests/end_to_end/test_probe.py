"""A real coordinator with a real probe: what volunteers train passes, what a hostile one sends does not."""

import signal
from pathlib import Path
from typing import Any

import pytest

from commands import Running, Stage, calm_home, notes, potluck, recipe_at, stage
from scripted import Volunteer, enlarged
from tiny import tiny_base

TERMS = {"cohort": 2, "weights": ["examples", "staleness"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def trained(at: Stage, invite: str, host: Running) -> dict[str, Any]:
    """Let two real volunteers make version 1; return what the host tells of it."""
    joined = []
    for name, seed in (("ann", 1), ("bob", 2)):
        home, text = calm_home(at.folder / name / "home"), notes(at.folder / name / "notes", seed)
        joined.append(at.start("join", invite, "--data", text, "--name", name, "--yes", home=home))
    passed = host.told("ended", round=1)
    for running in joined:
        running.kill()
    return passed


def shouted(invite: str, count: int) -> set[str]:
    """Let so many hostile volunteers send two hundred times what they trained; return their short ids."""
    made = [Volunteer(invite, seed=seed) for seed in range(count)]
    for one in made:
        one.enroll()
        lease = one.lease()
        one.deliver(lease, enlarged(one.train(lease), 200))
        one.close()
    return {one.client_id[:8] for one in made}


def started(process: Running) -> str:
    return str(process.told("listening")["invite"])


def test_training_passes_the_probe_and_an_attack_does_not(base: Path, tmp_path: Path):
    """One version of two real volunteers, one refused round of hostile ones, and the run goes on after a kill."""
    recipe = recipe_at(tmp_path / "recipe.toml", base, run={"name": "tiny", "versions": 3}, aggregation=TERMS)
    host = ("host", recipe, "--folder", tmp_path / "run", "--listen", "127.0.0.1:0")
    host += ("--probe", notes(tmp_path / "held_out", 4), "--probe-tolerance", "0.02")
    with stage(tmp_path) as at:
        first = at.start(*host, home=tmp_path)
        invite = started(first)
        passed = trained(at, invite, first)
        loud = shouted(invite, 2)
        refused = first.told("ended", phase="refused")
        status = potluck("status", "--folder", tmp_path / "run", "--json", home=tmp_path).lines[0]
        history = potluck("history", "--folder", tmp_path / "run", home=tmp_path)
        first.send(signal.SIGKILL)
        first.process.wait()

        second = at.start(*host, home=tmp_path)
        started(second)
        second.send(signal.SIGINT)
        assert second.end().status == 0
        again = potluck("status", "--folder", tmp_path / "run", "--json", home=tmp_path).lines[0]

    assert passed["version"] == 1
    assert passed["probe"]["loss_after"] < passed["probe"]["loss_before"]
    assert passed["probe"]["tolerance"] == 0.02
    assert refused["probe"]["loss_before"] == passed["probe"]["loss_after"]
    assert refused["probe"]["probe"] == passed["probe"]["probe"]
    assert not refused["probe"]["loss_after"] or refused["probe"]["loss_after"] > 1.02 * refused["probe"]["loss_before"]
    assert clients(refused) <= loud | clients(passed)
    assert (status["version"], again["version"]) == (1, 1)
    assert status["last_round"]["round"] == again["last_round"]["round"] == refused["round"]
    assert f"round {refused['round']}: refused, version 1 stays; loss on the probe" in history.out


def clients(ended: dict[str, Any]) -> set[str]:
    return {one["client"] for one in ended["inputs"]}
