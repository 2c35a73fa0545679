"""The report of one run: a page and its pictures, written beside its rows."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from potluck.client.home import store
from potluck.simulations.reports import page
from potluck.simulations.reports.canvas import LIGHT, OF_PAGE, to_png, to_svg
from potluck.simulations.reports.pictures import PICTURES
from potluck.simulations.reports.runs import Run, read_run
from potluck.simulations.reports.weighed import weighed_down
from potluck.simulations.reports.words import NONE, count, loss, percent, size, span

PAGE: Final = "report.html"
LONGEST: Final = 50
"""Clients in the table of who was weighted down."""


def write_report(folder: Path) -> Path:
    """Write report.html, and a PNG a picture, into the folder of a run; return the page's path.

    The same rows give the same bytes.  A picture that a run has nothing for is left out, and an old one removed.

    Raises:
        NotARun: the folder holds no run.
        BadTable: its rows are damaged.
        DiskFull: there is no room for the report; what is there already stays whole.
    """
    run = read_run(folder)
    for name, picture in PICTURES.items():
        drawn = picture.draw(run, LIGHT)
        if drawn is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            store(to_png(drawn), folder / f"{name}.png")
    store(report(run).encode(), folder / PAGE)
    return folder / PAGE


def report(run: Run) -> str:
    """Return the page that shows *run*."""
    return page.page(f"{run.recipe.run.name}: simulated", _parts(run))


def _parts(run: Run) -> Iterator[str]:
    recipe = run.recipe
    yield page.heading(f"{recipe.run.name}: simulated", 1)
    if recipe.run.purpose:
        yield page.paragraph(recipe.run.purpose)
    yield page.paragraph(
        f"{count(len(run.clients))} clients, {count(len(run.rounds))} {recipe.aggregation.mode} rounds over "
        f"{recipe.model.base}; rule {recipe.aggregation.rule}, weights {' then '.join(recipe.aggregation.weights)}, "
        f"outer step {recipe.aggregation.outer}, codec {recipe.codec.name}."
    )
    yield page.tiles(_tiles(run))
    for name, picture in PICTURES.items():
        yield page.heading(picture.title)
        drawn = picture.draw(run, OF_PAGE)
        yield page.paragraph(picture.nothing) if drawn is None else page.picture(to_svg(drawn, name), picture.caption)
        if name == "weights":
            yield _losers(run)
        elif name == "leases":
            yield _reasons(run)
    yield page.heading("Machines")
    yield _machines(run)
    yield page.heading("Round by round")
    yield _rounds(run)
    yield page.heading("What was asked")
    yield page.folded("recipe.json", json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False))
    yield page.folded("scenario.json", json.dumps(dict(run.scenario), indent=1, ensure_ascii=False))


def _tiles(run: Run) -> Iterator[page.Tile]:
    """Yield the numbers that the page begins with."""
    base, last = run.base_loss, run.last_loss
    leases = sum(row.leases for row in run.rounds)
    yield page.Tile("held-out loss", loss(last), f"base {loss(base)}" if not math.isnan(base) else "nats per token")
    worst = run.measured[-1].loss_worst_decile if run.measured else math.nan
    yield page.Tile("worst tenth of clients", loss(worst), "nats per token")
    yield page.Tile("simulated time", span(run.hours), f"{count(sum(row.tokens for row in run.rounds))} tokens learned")
    up, down = (sum(getattr(row, field) for row in run.rounds) for field in ("bytes_up", "bytes_down"))
    yield page.Tile("sent by clients", size(up), f"{size(down)} received")
    yield page.Tile("updates combined", count(sum(row.updates for row in run.rounds)), f"of {count(leases)} leases")
    yield page.Tile("leases lost", percent(run.lost), "went away, or out of time")
    hostile = sum(row.hostile for row in run.clients)
    yield page.Tile("hostile clients", count(hostile), f"{percent(run.hostile)} of combined updates")
    cpu, wall = (sum(getattr(row, field) for row in run.rounds) for field in ("cpu_s", "wall_s"))
    yield page.Tile("this machine", f"{count(cpu)} CPU-s", f"{span(wall / 3600)} of its time")


def _rounds(run: Run) -> str:
    columns = ("round", "version", "ended", "loss", "worst tenth", "updates", "hostile", "lost", "late", "up", "down")
    rows = [
        (
            *(row.round, row.version, row.ended.lower() + (f": {row.reason}" if row.reason else "")),
            *(loss(row.loss), loss(row.loss_worst_decile), row.updates, row.hostile, row.dropped, row.late),
            *(size(row.bytes_up), size(row.bytes_down)),
            *(span(row.ended_h - row.began_h), count(row.tokens), percent(row.truncation), f"{row.cpu_s:.1f}"),
        )
        for row in run.rounds
    ]
    return page.table((*columns, "took", "tokens", "cut off", "CPU-s"), rows) if rows else page.paragraph("None ended.")


def _losers(run: Run) -> str:
    """Return the table of clients that counted for less than they claimed."""
    down = weighed_down(run)
    if not down:
        return page.paragraph("Every client counted for what it claimed, within a twentieth.")
    columns = (
        "client",
        "device",
        "hostile",
        "updates",
        "claimed, rounds",
        "counted, rounds",
        "lost",
        "commonest reason",
    )
    rows = [
        (
            *(each.client, each.device, "yes" if each.hostile else "no", each.updates),
            *(f"{each.claimed:.2f}", f"{each.counted:.2f}", percent(each.lost), each.reason or NONE),
        )
        for each in down[:LONGEST]
    ]
    more = f" The {LONGEST} that lost most are shown." if len(down) > LONGEST else ""
    hostile = sum(each.hostile for each in down)
    said = f"{count(len(down))} clients counted for less than they claimed, {count(hostile)} of them hostile.{more}"
    return page.paragraph(said) + page.table(columns, rows)


def _reasons(run: Run) -> str:
    """Return the table of why updates were not taken, or nothing."""
    reasons = Counter((row.outcome, row.reason) for row in run.updates if row.outcome != "counted" and row.reason)
    rows = [(outcome, reason, number) for (outcome, reason), number in reasons.most_common(LONGEST)]
    return page.table(("outcome", "reason", "leases"), rows) if rows else ""


def _machines(run: Run) -> str:
    """Return the table of what each kind of machine did."""
    device = {row.client: row.device for row in run.clients}
    rows = []
    for name in sorted(set(device.values())):
        mine = [row for row in run.updates if device.get(row.client) == name]
        came = [row for row in mine if row.bytes_up]
        lost = sum(row.outcome in {"dropped", "expired"} for row in mine)
        times = [span(median(getattr(row, field) for row in came) / 3600) if came else NONE for field in TIMES]
        counted = sum(row.outcome == "counted" for row in mine)
        share = percent(lost / len(mine)) if mine else NONE
        rows.append((name, sum(d == name for d in device.values()), len(mine), counted, share, *times))
    columns = ("machine", "clients", "leases", "counted", "lost", "download, median", "training", "upload")
    return page.table(columns, rows) if rows else page.paragraph("There are no clients.")


TIMES: Final = ("download_s", "train_s", "upload_s")
