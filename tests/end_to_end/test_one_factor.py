"""Rules that train one factor, by the commands that people type: real processes, TLS, a real model that learns."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import calm_home, notes, potluck, recipe_at, stage
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
    versions = sorted((line for line in lines if "adapter_digest" in line), key=lambda line: line["version"])[1:]
    losses = tuple((line["loss_before"], line["loss_after"]) for line in versions)
    return Run(losses, status["bytes_in"], sum(line["counted"] for line in lines if "client_id" in line))


@pytest.fixture(scope="module")
def both_factors(base: Path, tmp_path_factory) -> Run:
    """What rule mean comes to."""
    return run(tmp_path_factory.mktemp("both") / "mean", base, "mean")


@pytest.mark.parametrize("rule", ["ffa", "rolora"])
def test_a_run_of_one_factor_learns_at_half_the_upload(base: Path, both_factors: Run, tmp_path: Path, rule: str):
    """Every update counts, each version begins lower than the one before, and half as many bytes travel."""
    one = run(tmp_path / rule, base, rule)

    print(f"{rule}: {one}\nmean: {both_factors}")  # noqa: T201 - shown with -s
    assert (one.counted, both_factors.counted) == (2 * VERSIONS, 2 * VERSIONS)
    assert all(after < before for before, after in one.losses)
    begins = [before for before, _ in one.losses]
    assert begins == sorted(begins, reverse=True)
    assert begins[0] == pytest.approx(both_factors.losses[0][0], rel=1e-6)
    assert begins[0] - begins[-1] > 0.03 * begins[0]
    assert 0.4 < one.bytes_in / both_factors.bytes_in < 0.65
