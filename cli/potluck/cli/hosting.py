"""The operator's commands."""

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, final

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.products import Mapped
from potluck.cli.extras import needs, require
from potluck.cli.operating import remember, summary
from potluck.cli.probing import EVALUATES, opened_probe
from potluck.cli.report import say, show, warn
from potluck.cli.trusting import doubted, outcome, plain
from potluck.coordinator.desk import Status
from potluck.coordinator.server import CannotListen, Coordinator
from potluck.coordinator.store.records import Version
from potluck.coordinator.trust import RoundReport
from potluck.wire.recipe import Recipe

MODEL_FILE: Final = "model.json"
FIRST_USES: Final = 10
EVERYWHERE: Final = ("0.0.0.0", "[::]", "")  # noqa: S104 - compared with, not bound to
TICK_S: Final = 0.5
LAST_PORT: Final = 65_535


@final
@dataclass(frozen=True, slots=True)
class Hosting:
    """What `potluck host` was asked for."""

    recipe: Path
    folder: Path | None
    listen: str
    addresses: tuple[str, ...]
    database: str | None
    probe: Path | None
    tolerance: float
    ray_address: str | None


def run_host(asked: Hosting, *, as_json: bool) -> None:
    """Host a run until a signal ends it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    written = Recipe.read(asked.recipe)
    folder = asked.folder or Path(f"potluck-{written.run.name.lower().replace(' ', '-')}")
    for address in asked.addresses:
        parted(address)
    check_free(asked.listen)
    if asked.probe is not None:
        require("evaluation", *EVALUATES)
    if asked.ray_address is not None:
        require("simulations", "ray")
    recipe = written if written.complete else filled_in(written, folder, quiet=as_json)
    probe = opened_probe(asked.probe, asked.tolerance, recipe, quiet=as_json) if asked.probe else None
    with combining(asked.ray_address) as mapped:
        coordinator = Coordinator.open(folder, recipe, database_url=asked.database, probe=probe, mapped=mapped)
        serve(coordinator, asked, Kept(folder, written, recipe), as_json=as_json)
    if not as_json:
        say("stopped; the same command goes on where it was")


@contextmanager
def combining(ray_address: str | None) -> Iterator[Mapped]:
    """Give what runs the passes over a round's modules: this process, or a Ray cluster."""
    if ray_address is None:
        yield map
        return
    from potluck.simulations.ray_map import LOCAL, ray_map

    with ray_map(None if ray_address == LOCAL else ray_address) as mapped:
        yield mapped


class Kept(NamedTuple):
    """A run's folder, and its recipe as it was written and as it is run."""

    folder: Path
    written: Recipe
    recipe: Recipe


def serve(coordinator: Coordinator, asked: Hosting, kept: Kept, *, as_json: bool) -> None:
    """Listen until a signal ends it."""
    folder = kept.folder
    try:
        keep_model(kept.written, kept.recipe, folder)
        port = coordinator.listen(asked.listen)
        addresses = asked.addresses or (reachable(asked.listen, port),)
        remember(folder, addresses, asked.database)
        first = not coordinator.desk.invites.all()
        token = coordinator.invite(addresses, uses=FIRST_USES) if first else ""
        with stopping() as stopped:
            announce(coordinator.status(), folder, addresses, token, as_json=as_json)
            watch(coordinator, folder, stopped, as_json=as_json)
    finally:
        coordinator.stop()


def watch(coordinator: Coordinator, folder: Path, stopped: threading.Event, *, as_json: bool) -> None:
    """Tell what changes until *stopped*."""
    seen: tuple[object, ...] = ()
    begun = coordinator.status()
    version, trouble = begun.version, ""
    ended = begun.last.round if begun.last else 0
    while not stopped.wait(TICK_S):
        now = coordinator.status()
        if now.version > version and coordinator.wait_for_version(now.version, TICK_S):  # its release is written, too
            for made in reversed([one for one in now.versions if one.version > version]):
                tell_version(made, now, folder, as_json=as_json)
            version = now.version
        for report in reversed(coordinator.desk.reports(ended)):
            ended = report.round
            tell_ended(report, as_json=as_json)
        state = (now.round, now.received, now.members, now.leases, now.paused)
        if state != seen:
            seen = state
            tell_state(now, as_json=as_json)
        if coordinator.trouble and coordinator.trouble != trouble:
            warn(f"a round cannot be combined: {coordinator.trouble}")
        trouble = coordinator.trouble
        if not coordinator.in_charge:
            warn("another coordinator has taken over this run; this one stops")
            return


def announce(now: Status, folder: Path, addresses: tuple[str, ...], token: str, *, as_json: bool) -> None:
    """Say that the run can be joined."""
    if as_json:
        show(
            {
                "event": "listening",
                "run": now.run_name,
                "coordinator_id": now.coordinator_id,
                "folder": str(folder),
                "addresses": list(addresses),
                "version": now.version,
                "invite": token,
            },
            as_json=True,
        )
        return
    say(f"hosting {now.run_name!r} at {', '.join(addresses)}, version {now.version}, in {folder}")
    if token:
        say(f"an invite for {FIRST_USES} volunteers, good for 7 days:", "", f"  potluck join {token} --data FOLDER", "")
    say("another invite: potluck invite        where it stands: potluck status --folder " + str(folder))
    say("Ctrl-C ends it; nothing is lost", "")


def tell_version(made: Version, now: Status, folder: Path, *, as_json: bool) -> None:
    """Tell that there is a new version."""
    release = folder / "releases" / f"v{made.version:04d}"
    if as_json:
        facts = {
            "event": "version",
            "version": made.version,
            "contributors": made.contributors,
            "examples": made.examples,
            "loss_before": made.loss_before,
            "loss_after": made.loss_after,
            "truncation": made.truncation,
            "adapter": made.adapter_digest.hex(),
            "release": str(release),
            "bytes_in": now.bytes_in,
            "bytes_out": now.bytes_out,
        }
        show(facts, as_json=True)
        return
    before = f"{made.loss_before:.3f} → " if made.loss_before else ""
    losses = f", their own held-out loss {before}{made.loss_after:.3f}" if made.loss_after else ""
    say(f"version {made.version}: {made.contributors} volunteers, {made.examples} examples{losses}; {release}")
    if made.version == now.last_version:
        say("that was the last version: the run is done. Volunteers who come by are told; Ctrl-C ends it")


def tell_ended(report: RoundReport, *, as_json: bool) -> None:
    """Tell how a round ended, where that is more than a version, and which of its updates were not trusted."""
    doubts = list(doubted(report))
    if as_json:
        show({"event": "ended", **plain(report)}, as_json=True)
    elif report.version is None or doubts:
        say(f"round {outcome(report)}")
        for _, client, share, counted, why in doubts:
            say(f"  {client}: stated {share} of the round, counted {counted}; {why}")


def tell_state(now: Status, *, as_json: bool) -> None:
    """Tell where the open round is."""
    if as_json:
        show({"event": "round", **summary(now)}, as_json=True)
    elif now.round is not None and not now.done:
        say(
            f"round {now.round}: {now.received} of {now.cohort} updates in, {now.leases} being made, "
            f"{now.members} volunteers" + (" · paused" if now.paused else "")
        )


def filled_in(recipe: Recipe, folder: Path, *, quiet: bool) -> Recipe:
    """Return *recipe* with its base model pinned: as this folder has it already, or from the model itself."""
    kept = folder / MODEL_FILE
    if kept.exists():
        found = json.loads(kept.read_text("utf-8"))
        if found["asked"] == asked_for(recipe):
            model = recipe.model.model_validate_json(json.dumps(found["model"]))
            return recipe.model_copy(update={"model": model})
    with needs("client"):
        from potluck.client.home import cache_of_user
        from potluck.client.training.completing import completed

        return completed(recipe, cache_of_user(os.environ), lambda words: None if quiet else say(words))


def keep_model(written: Recipe, whole: Recipe, folder: Path) -> None:
    """Keep what was filled in, so that the next start needs neither the base model nor torch."""
    if written.complete:
        return
    kept = {"asked": asked_for(written), "model": whole.model.model_dump(mode="json")}
    draft = folder / f"{MODEL_FILE}.new"
    draft.write_text(json.dumps(kept), "utf-8")
    draft.replace(folder / MODEL_FILE)


def asked_for(recipe: Recipe) -> dict[str, object]:
    """Return what decides which base model, and which modules of it, a recipe means."""
    return {"base": recipe.model.base, "revision": recipe.model.revision, "targets": list(recipe.adapter.targets)}


def parted(address: str) -> tuple[str, int]:
    """Return the host and the port in "host:port".

    Raises:
        BadSetting: it is not that.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= LAST_PORT):
        raise BadSetting(f"{address!r} is no address", fix="write HOST:PORT, such as 0.0.0.0:8470")
    return host, int(port)


def check_free(listen: str) -> None:
    """Look whether the address can be listened on, before anything is written.

    Raises:
        BadSetting: it is no address.
        CannotListen: it is in use, or none of this machine's.
    """
    host, port = parted(listen)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {listen}: {error.strerror or error}", fix="choose another: --listen HOST:PORT"
        ) from None


def reachable(listen: str, port: int) -> str:
    """Return the address that volunteers on this network can reach; connects a datagram socket and sends nothing."""
    host = listen.rpartition(":")[0]
    if host not in EVERYWHERE:
        return f"{host}:{port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that documentation may use; only the route is asked for
            return f"{probe.getsockname()[0]}:{port}"
        except OSError:
            return f"127.0.0.1:{port}"


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Return an event that the first Ctrl-C or TERM sets; the second Ctrl-C ends the program at once."""
    stopped = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        if stopped.is_set():
            sys.exit(130)
        stopped.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, old in before.items():
            signal.signal(number, old)
