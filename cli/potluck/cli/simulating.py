"""`potluck simulate`: a recipe tried with many clients, and its report."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import isnan
from pathlib import Path
from shlex import quote
from typing import final

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.cli.report import duration, say, show, size
from potluck.client.home import cache_of_user
from potluck.simulations.reports.report import write_report
from potluck.simulations.rows import RoundRow
from potluck.simulations.running.engines import AUTO, Hands, cores, engine_of, group_size, numbers_of, shared_out
from potluck.simulations.running.fleet import Fleet, LocalFleet
from potluck.simulations.running.kept import Asked, Folder
from potluck.simulations.running.run import Order, Simulation, simulation
from potluck.simulations.worlds.scenarios import scenario
from potluck.simulations.worlds.tables import Hostile, Scenario
from potluck.wire.recipe import Recipe


class Stopped(PotluckError):
    """The person at the terminal stopped a run."""


@final
@dataclass(frozen=True, slots=True)
class Simulating:
    """What was asked for on the command line."""

    recipe: Path
    clients: int
    rounds: int
    scenario: str
    attack: str
    attack_share: float
    folder: Path | None
    engine: str
    dtype: str
    workers: int | None
    threads: int
    at_once: int | None
    measured: int
    measure_every: int
    own_losses: bool
    ray_address: str | None
    resume: bool


def run_simulate(asked: Simulating, *, as_json: bool) -> None:
    """Play the rounds, tell of each, and write the report."""
    with stoppable():
        _simulate(asked, as_json=as_json)


def _simulate(asked: Simulating, *, as_json: bool) -> None:
    from potluck.client.training.completing import completed

    note: Callable[[str], None] = (lambda _: None) if as_json else say
    cache = cache_of_user(os.environ)
    recipe = completed(Recipe.read(asked.recipe), cache, note)
    rounds = asked.rounds or recipe.run.versions
    if not rounds:
        raise BadSetting("the recipe has no last version, and there is no number of rounds", fix="give --rounds 20")
    root = asked.folder or Path(f"potluck-simulated-{recipe.run.name.replace(' ', '-')}")
    size_of_group = asked.at_once or group_size(recipe)
    wanted = Asked(
        clients=asked.clients,
        at_once=size_of_group,
        engine=asked.engine,
        dtype=numbers_of(asked.dtype, asked.engine, recipe),
        threads=asked.threads,
        measured=min(asked.measured, asked.clients),
        measure_every=asked.measure_every,
        fit=asked.at_once is None,
        own_losses=asked.own_losses,
    )
    if asked.resume:
        wanted = Folder(root).asked()
        _see_that_it_has_no_more(root, rounds)
    if asked.dtype == AUTO:
        note(f"the base model computes in {wanted.dtype} numbers; --dtype says otherwise")
    hands = Hands(wanted.engine, cache, wanted.threads, wanted.dtype, None if wanted.fit else wanted.at_once)
    with fleet_of(hands, asked.workers, asked.ray_address) as fleet:
        order = Order(recipe, scene(asked), wanted, asked.resume)
        run = simulation(root, order, fleet, note, cache)
        _play(run, rounds, again(asked, root), as_json=as_json)
    page = write_report(root)
    if as_json:
        show({"event": "done", "rounds": run.played, "digest": run.digest, "report": str(page)}, as_json=True)
    else:
        say("", f"master  {run.digest[:16]}…", f"written: {page}")


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C stop the block, whatever it did before: this command is always safe to stop.

    A shell that puts a command in the background may have it ignore Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _see_that_it_has_no_more(root: Path, rounds: int) -> None:
    """Refuse fewer *rounds* than the run in *root* has: none is ever taken back.

    Raises:
        BadSetting: it has more.
    """
    played = Folder(root).load()[0].rounds_written
    if played > rounds:
        raise BadSetting(
            f"{root} has {played} rounds already, and {rounds} were asked for",
            fix=f"ask for --rounds {played} for its report, for more to go on, or name another --folder",
        )


def scene(asked: Simulating) -> Scenario:
    """Return the scenario, with the attack that was asked for beside it."""
    found = scenario(asked.scenario)
    if not asked.attack:
        return found
    attack = Hostile(name=asked.attack, share=asked.attack_share, beyond=True)
    return found.model_copy(update={"attack": attack})


@contextmanager
def fleet_of(hands: Hands, workers: int | None, address: str | None) -> Iterator[Fleet]:
    """Return what trains: an engine here if one worker is enough, and else a Ray cluster's."""
    make = partial(engine_of, hands)
    if address is None:
        workers = shared_out(workers, hands.threads, cores())
    if workers == 1 and address is None:
        yield LocalFleet(make())
        return
    from potluck.simulations.running.fleet_ray import ray_fleet

    with ray_fleet(make, workers=workers, threads=hands.threads, address=address) as fleet:
        yield fleet


def again(asked: Simulating, root: Path) -> str:
    """Return the command that goes on with a run."""
    parts = ["potluck simulate", quote(str(asked.recipe)), f"--rounds {asked.rounds}" if asked.rounds else ""]
    parts += [f"--scenario {quote(asked.scenario)}", f"--folder {quote(str(root))}", "--resume"]
    if asked.attack:
        parts.insert(3, f"--attack {asked.attack} --attack-share {asked.attack_share:g}")
    return " ".join(part for part in parts if part)


def _play(run: Simulation, rounds: int, command: str, *, as_json: bool) -> None:
    """Play, and tell of every round as it ends.

    Raises:
        Stopped: Ctrl-C; the run stands where its last round ended.
    """
    try:
        with telling(run.played, rounds, as_json=as_json) as tell:
            for row in run.play(rounds):
                tell(row)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; {run.saved} of {rounds} rounds are on the disk", fix=f"go on with: {command}"
        ) from None


@contextmanager
def telling(played: int, rounds: int, *, as_json: bool) -> Iterator[Callable[[RoundRow], None]]:
    """Return what is told of every round: JSON, a line beside a bar, or a line."""
    began_s = time.monotonic()

    def left(row: RoundRow) -> str:
        spent_s, done = time.monotonic() - began_s, max(1, row.round - played)
        return f"about {duration(spent_s / done * (rounds - row.round))} left"

    if as_json:
        yield lambda row: show({"event": "round", "of": rounds, "left": left(row), **facts(row)}, as_json=True)
    elif sys.stdout.isatty():
        columns = (TextColumn("round {task.completed} of {task.total}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.description}")) as progress:
            task = progress.add_task("", total=rounds, completed=played)

            def tell(row: RoundRow) -> None:
                progress.console.print(line(row), markup=False, highlight=False)
                rate = row.updates / row.wall_s if row.wall_s else 0.0
                progress.update(task, completed=row.round, description=f"{rate:.0f} clients/s, {left(row)}")

            yield tell
    else:
        yield lambda row: say(f"{line(row)}; {left(row)}")


def line(row: RoundRow) -> str:
    """Return what a person wants to know of a round."""
    if row.ended != "COMMITTED":
        return f"round {row.round}: no version, {row.reason}"
    loss = "" if isnan(row.loss) else f", loss {row.loss:.3f} (worst tenth {row.loss_worst_decile:.3f})"
    return (
        f"round {row.round}: {row.updates} updates of {row.leases} leases{loss}, {size(row.bytes_up)} up, "
        f"{row.ended_h:.2f} simulated hours, {row.wall_s:.1f} s"
    )


def facts(row: RoundRow) -> dict[str, object]:
    """Return a round as JSON takes it: what was not measured is null."""
    values = asdict(row)
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in values.items()}
