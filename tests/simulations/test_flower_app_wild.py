"""The Flower app beside the wild, and under `flwr run`: the same names, text and recipe give the same bits."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from flwr.app import Message, MessageType

from commands import calm_home, notes, potluck, stage
from coordinators import hosting
from flower_app import SYNCHRONOUS, Town, owner, played
from potluck.client.home import Home
from potluck.client.limits import Limits
from potluck.client.training.completing import completed
from potluck.client.training.local import LocalTrainer
from potluck.client.training.together.sequential import SequentialEngine
from potluck.client.work import Job, Word, order_of
from potluck.coordinator.site import plan_of
from potluck.simulations.flower.app_messages import bytes_in
from potluck.simulations.flower.app_run import APP
from potluck.simulations.flower.grid import Node
from potluck.simulations.running.fleet import LocalFleet
from potluck.simulations.running.kept import Asked
from potluck.simulations.running.run import Order, simulation
from potluck.simulations.worlds.scenarios import scenario
from potluck.wire.recipe import Recipe


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Town:
    return Town.at(tmp_path_factory.mktemp("town"))


@dataclass
class Overheard:
    """A node, and every update that it sent: its bytes and how many examples it claims."""

    node: Node
    sent: list[tuple[bytes, int]] = field(default_factory=list)

    def __call__(self, message: Message) -> Message:
        reply = self.node(message)
        if message.metadata.message_type == MessageType.TRAIN:
            metrics = reply.content["metrics"]
            self.sent.append((bytes_in(reply.content["arrays"]), metrics["num-examples"]))
        return reply


def test_a_coordinator_makes_the_same_versions_of_the_same_bytes(town: Town, tmp_path: Path):
    """A real one, over gRPC and TLS: what the nodes of two rounds sent is delivered to it by three volunteers."""
    three = {"steps": 3, "batch": 2, "learning_rate": 2e-2}  # as these volunteers say of themselves
    path = town.recipe(tmp_path / "recipe.toml", aggregation=SYNCHRONOUS | {"over_selection": 1.0}, training=three)
    settings = town.settings(path, tmp_path / "run", measure_every=0)
    nodes = {node: Overheard(own) for node, own in town.nodes(settings, 3).items()}

    first = played(settings | {"rounds": 1}, nodes).standing
    second = played(settings, nodes).standing

    recipe = completed(Recipe.read(path), town.folder / "cache")
    with hosting(tmp_path / "hosted", recipe) as hosted:
        volunteers = hosted.cohort(3)
        for turn in (0, 1):
            leases = [volunteer.lease() for volunteer in volunteers]
            assert {lease.version for lease in leases} == {turn}
            for volunteer, lease, node in zip(volunteers, leases, nodes.values(), strict=True):
                volunteer.deliver(lease, *node.sent[turn][:1], examples=node.sent[turn][1])
            assert hosted.coordinator.wait_for_version(turn + 1, 10)
        versions = {one.version: one for one in hosted.coordinator.history().versions}
    assert [versions[number].adapter_digest.hex() for number in (1, 2)] == [first.adapter, second.adapter]
    assert versions[2].checkpoint_digest.hex() == second.checkpoint


def test_a_client_sends_what_a_volunteers_program_would(town: Town, tmp_path: Path):
    """The same name, text and version: the trainer of a volunteer's machine, and the recipe's codec."""
    path = town.recipe(tmp_path / "recipe.toml", run={"versions": 1}, aggregation=SYNCHRONOUS | {"cohort": 2})
    settings, text = town.settings(path, tmp_path / "run", scenario="", measure_every=0), tmp_path / "many.jsonl"
    rows = [json.dumps({"text": f"{n} bottles of beer, take {n % 7} down. " * 3}) for n in range(60)]
    text.write_text("\n".join(rows), "utf-8")  # so many that no two orders of them begin alike by chance
    nodes = {place: Overheard(owner(f"client {place}", text, settings)) for place in (1, 2)}
    played(settings, nodes)

    recipe = completed(Recipe.read(path), town.folder / "cache")
    seed = plan_of(recipe).seed_of(0)
    job = Job(recipe, None, 0, seed, order_of("client 2", seed), text, tmp_path / "task", threads=1)
    job.folder.mkdir()
    trained = LocalTrainer(town.folder / "cache").train(job, lambda _: Word.GO)

    assert nodes[2].sent[0] == (recipe.codec.choose(("int8",)).encode(trained.deltas), trained.examples)
    assert nodes[1].sent[0][0] != nodes[2].sent[0][0]


def test_our_own_simulation_makes_the_same_versions(town: Town, tmp_path: Path):
    """Simulated time and leases, and the engine that trains one client after the other: the same bits in the end."""
    path = town.recipe(tmp_path / "recipe.toml", aggregation=SYNCHRONOUS | {"over_selection": 1.0, "deadline_s": 600.0})
    settings = town.settings(path, tmp_path / "run", measure_every=0)
    standing = played(settings, town.nodes(settings, 3)).standing

    recipe, cache = completed(Recipe.read(path), town.folder / "cache"), town.folder / "cache"
    asked = Asked(clients=3, at_once=1, engine="sequential")
    ours = simulation(
        tmp_path / "ours", Order(recipe, scenario("steady"), asked), LocalFleet(SequentialEngine(cache)), cache=cache
    )
    rows = list(ours.play(2))

    assert [row.updates for row in rows] == [3, 3]
    assert ours.table.standing.published.adapter == standing.adapter
    assert ours.table.standing.published.checkpoint == standing.checkpoint


@pytest.mark.cluster
def test_real_volunteers_and_a_real_coordinator_make_the_same_version(town: Town, tmp_path: Path):
    """Three processes over TLS, and two functions of Flower: the same recipe, names and text, the same digests."""
    tables = {
        "aggregation": SYNCHRONOUS | {"cohort": 2, "over_selection": 1.0, "deadline_s": 600.0},
        "codec": {"name": "int8"},
    }
    recipe = town.recipe(tmp_path / "recipe.toml", **tables)
    data = {name: notes(tmp_path / name / "notes", seed) for seed, name in enumerate(("ann", "bob"))}
    with stage(tmp_path) as at:
        host = at.start("host", recipe, "--folder", tmp_path / "hosted", "--listen", "127.0.0.1:0", home=tmp_path)
        invite = host.told("listening")["invite"]
        for name, text in data.items():
            home = one_thread(tmp_path / name / "home")
            at.start("join", invite, "--data", text, "--name", name, "--yes", home=home)
        host.told("version", version=2)
        lines = potluck("history", "--folder", tmp_path / "hosted", "--json", home=tmp_path).lines
        host.send(signal.SIGINT)
        host.end()
    hosted = {line["version"]: line["adapter_digest"] for line in lines if "adapter_digest" in line}
    ids = {line["name"]: line["client_id"] for line in lines if "client_id" in line}

    settings = town.settings(recipe, tmp_path / "run", scenario="")
    nodes = {i: owner(ids[name], text, settings) for i, (name, text) in enumerate(data.items(), 1)}
    first = played(settings | {"rounds": 1}, nodes).standing
    second = played(settings, nodes).standing

    assert [first.adapter, second.adapter] == [hosted[1], hosted[2]]


def one_thread(folder: Path) -> Path:
    """Make a home whose owner lends one core: sums of several threads are added in another order."""
    home = Home.at(calm_home(folder), folder / "cache")
    share = 1.0 / (os.cpu_count() or 1)
    Limits(
        on_battery=True, core_share=share, busy_share=1.0, nice=0, min_free_ram_gib=0.0, min_free_disk_gib=0.0
    ).write(home.limits)
    return folder


# -- flwr run ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def flower(folder: Path) -> Iterator[dict[str, str]]:
    """Lend an environment for `flwr run`, and end what it leaves running, which carries this environment's mark."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    try:
        yield environment
    finally:
        left = [process for process in psutil.process_iter() if home_of(process) == str(folder)]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=30)


def home_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("FLWR_HOME", "")
    except psutil.Error:
        return ""


@pytest.mark.cluster
def test_flwr_run_ends_in_the_bits_of_nodes_in_this_process(town: Town, tmp_path: Path):
    """The real command, its SuperLink and Ray: cohorts drawn by name, text of the roles, the same digest."""
    recipe = town.recipe(tmp_path / "recipe.toml")
    here = town.settings(recipe, tmp_path / "here", measure_every=0)
    there = town.settings(recipe, tmp_path / "there")
    given = " ".join(f"{name}={json.dumps(value)}" for name, value in there.items())
    size = "num-supernodes=5 client-resources-num-cpus=1"

    with flower(tmp_path / "flower") as environment:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("flwr")),
                "run",
                str(APP),
                "--stream",
                "--federation-config",
                size,
                "--run-config",
                given,
            ],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    standing = json.loads((tmp_path / "there" / "standing.json").read_text("utf-8"))
    assert standing["version"] == 2, done.stdout
    assert standing["adapter"] == played(here, town.nodes(here)).standing.adapter
