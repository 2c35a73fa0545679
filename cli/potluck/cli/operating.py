"""What the operator does beside a coordinator at work, or without one."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from potluck.aggregation.errors import BadSetting
from potluck.cli.report import say, show, size, table
from potluck.cli.trusting import outcome, plain, show_trust
from potluck.coordinator.desk import Desk, Status

HOST_FILE: Final = "host.json"


def remember(folder: Path, addresses: tuple[str, ...], database: str | None) -> None:
    """Keep what other commands need to find this coordinator; the database's URL may hold a password."""
    handle = os.open(folder / HOST_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"addresses": addresses, "database": database}, file)


def make_invite(folder: Path | None, *, uses: int, expires_s: float, addresses: tuple[str, ...], as_json: bool) -> None:
    """Make an invite beside the coordinator at work, or without one."""
    place = run_folder(folder)
    with desk_at(place) as desk:
        token = desk.invites.make(addresses or known_addresses(place), uses, expires_s)
    if as_json:
        show({"invite": token, "uses": uses, "expires_s": expires_s}, as_json=True)
    else:
        say(token)


def roll_back(folder: Path | None, version: int, *, as_json: bool) -> None:
    """Go back to an earlier version."""
    with desk_at(run_folder(folder)) as desk:
        made = desk.rollback(version)
    show({"version": made.version, "same as": version, "adapter": made.adapter_digest.hex()}, as_json=as_json)


def remove_client(folder: Path | None, client_id: str) -> None:
    """End a client's membership for good."""
    with desk_at(run_folder(folder)) as desk:
        desk.remove(client_id)
    say(f"{client_id} is removed; what it gave to earlier versions stays in them (see `potluck rollback`)")


def set_open(folder: Path | None, *, accepting: bool) -> None:
    """Give out work again, or no more."""
    with desk_at(run_folder(folder)) as desk:
        if accepting:
            desk.resume()
        else:
            desk.pause()
    say("work is given out again" if accepting else "no new work is given out; updates under way are still taken")


def show_status(folder: Path, *, as_json: bool) -> None:
    """Show where a coordinator's run stands."""
    with desk_at(folder) as desk:
        now = desk.status()
    if as_json:
        show({**summary(now), "last_round": None if now.last is None else plain(now.last)}, as_json=True)
        return
    last = f" of {now.last_version}" if now.last_version else ""
    show(
        {
            "run": f"{now.run_name} ({now.run_id})",
            "coordinator": now.coordinator_id,
            "version": f"{now.version}{last}" + (", the run is done" if now.done else ""),
            "round": "none open" if now.round is None or now.phase is None else f"{now.round}: {now.phase.value}",
            "last round": "none yet" if now.last is None else outcome(now.last),
            "updates": f"{now.received} of {now.cohort} in, {now.leases} being made",
            "read": f"sums of at least {now.least_summed} only" if now.least_summed else "each by itself",
            "volunteers": now.members,
            "traffic": f"{size(now.bytes_in)} in, {size(now.bytes_out)} out",
            "paused": "yes: no work is given out" if now.paused else "no",
            **({"standstill": now.standstill} if now.standstill else {}),
        }
    )


def show_history(folder: Path, limit: int, *, as_json: bool) -> None:
    """Show a coordinator's versions, and what each client gave."""
    with desk_at(folder) as desk:
        found = desk.history()
    if as_json:
        for version in found.versions[:limit]:
            show({name: _hex(value) for name, value in asdict(version).items()}, as_json=True)
        for report in found.reports[:limit]:
            show({"ended": plain(report)}, as_json=True)
        for gave in found.contributions[:limit]:
            show({name: _hex(value) for name, value in asdict(gave).items()}, as_json=True)
        return
    rows = [
        (v.version, v.contributors, v.examples, _loss(v.loss_before), _loss(v.loss_after), v.adapter_digest.hex()[:16])
        for v in found.versions[:limit]
    ]
    table(("version", "volunteers", "examples", "loss before", "after", "adapter"), rows)
    show_trust(found.reports[:limit])
    say("")
    given = [
        (g.client_id, g.name or "–", g.standing.value, g.counted, g.credit, _when(g.seen_s))
        for g in found.contributions[:limit]
    ]
    if given:
        table(("client", "name", "standing", "updates", "credit", "last seen"), given)


def summary(now: Status) -> dict[str, Any]:
    """Return where a run stands as plain values."""
    facts = {name: value for name, value in asdict(now).items() if name not in {"versions", "last"}}
    return facts | {"phase": now.phase.value if now.phase else "", "done": now.done}


def run_folder(folder: Path | None) -> Path:
    """Return *folder*, or the one coordinator's folder here.

    Raises:
        BadSetting: there is none here, or more than one.
    """
    if folder is not None:
        return folder
    found = [path.parent for path in Path().glob("*/" + HOST_FILE)]
    if len(found) != 1:
        told = f"{len(found)} runs are hosted from here" + (f": {', '.join(map(str, sorted(found)))}" if found else "")
        raise BadSetting(told, fix="name the coordinator's folder: --folder FOLDER")
    return found[0]


def known_addresses(folder: Path) -> tuple[str, ...]:
    """Return the addresses that the coordinator in *folder* told last.

    Raises:
        BadSetting: it never listened.
    """
    addresses = remembered(folder).get("addresses")
    if not addresses:
        raise BadSetting(
            "this coordinator has never listened, so its address is unknown", fix="give it: --address HOST:PORT"
        )
    return tuple(addresses)


def remembered(folder: Path) -> dict[str, Any]:
    """Return what remember kept, or nothing."""
    try:
        found: dict[str, Any] = json.loads((folder / HOST_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


@contextmanager
def desk_at(folder: Path) -> Iterator[Desk]:
    """Open the desk of the coordinator in *folder* for the length of the block."""
    desk = Desk.open(folder, database_url=remembered(folder).get("database"))
    try:
        yield desk
    finally:
        desk.close()


def _when(unix_s: float | None) -> str:
    """Return a moment by this machine's clock."""
    return "never" if not unix_s else time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))


def _hex(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _loss(value: float) -> str:
    return f"{value:.3f}" if value else "–"
