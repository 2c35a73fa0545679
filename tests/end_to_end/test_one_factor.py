"""Rules that train one factor, by the commands that people type: real processes, TLS, a real model that learns."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import calm_home, notes, potluck, recipe_at, stage
from potluck.client.consent import update_bytes
from potluck.client.training.completing import completed
from potluck.wire.recipe import Recipe
from tiny import tiny_base

VERSIONS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Run:
    """What a run of two volunteers came to."""

    losses: tuple[tuple[float, float], ...]
    """(before, after) training, in nats per token on the volunteers' own held-out text, by version."""
    bytes_in: int
    """Of all updates, as they travelled."""
    counted: int


def run(folder: Path, base: Path, rule: str) -> Run:
    """Host a run with that *rule*, let two volunteers join it to its end, and read the operator's records."""
    folder.mkdir()
    recipe = recipe_at(
        folder / "recipe.toml",
        base,
        run={"versions": VERSIONS},
        training={"steps": 12},
        aggregation={"rule": rule, "cohort": 2},
    )
    with stage(folder) as at:
        home = folder / "host"
        host = at.start("host", recipe, "--folder", folder / "run", "--listen", "127.0.0.1:0", home=home)
        invite = host.told("listening")["invite"]
        volunteers = []
        for seed, name in enumerate(("ann", "bob"), 1):
            data = notes(folder / name / "notes", seed)
            words = ("join", invite, "--data", data, "--name", name, "--yes")
            volunteers.append(at.start(*words, home=calm_home(folder / name / "home")))
        for volunteer in volunteers:
            done = volunteer.end()
            assert (done.status, done.lines[-1]["ending"]) == (0, "RUN_DONE"), done.err
        status = potluck("status", "--folder", folder / "run", "--json", home=home).lines[0]
        lines = potluck("history", "--folder", folder / "run", "--json", home=home).lines
        host.send(signal.SIGINT)
        assert host.end().status == 0
    versions = sorted((line for line in lines if "loss_before" in line), key=lambda line: line["version"])[1:]
    losses = tuple((line["loss_before"], line["loss_after"]) for line in versions)
    return Run(losses, status["bytes_in"], sum(line["counted"] for line in lines if "counted" in line))


def both_factors_bytes(base: Path, folder: Path) -> int:
    """Return how many bytes all updates of such a run take under a rule that trains both factors."""
    recipe = completed(Recipe.read(recipe_at(folder / "both.toml", base)), folder / "cache")
    return 2 * VERSIONS * update_bytes(recipe)


@pytest.mark.parametrize("rule", ["ffa", "rolora"])
def test_a_run_of_one_factor_learns_at_half_the_upload(base: Path, tmp_path: Path, rule: str):
    """Every update counts, each version begins lower than the one before, and half as many bytes travel."""
    one = run(tmp_path / rule, base, rule)

    assert one.counted == 2 * VERSIONS
    assert all(after < before for before, after in one.losses)
    begins = [before for before, _ in one.losses]
    assert begins == sorted(begins, reverse=True)
    assert begins[0] - begins[-1] > 0.03 * begins[0]
    assert 0.4 < one.bytes_in / both_factors_bytes(base, tmp_path) < 0.6
