"""`potluck demo`: progress all the way, then the table."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from potluck.cli.report import duration, printable, say, show, size, table
from potluck.simulations.demo import Demonstration, Moment, Outcome

EVERY = 5  # per cent, between two lines where no bar can be drawn


def show_demo(folder: Path, *, as_json: bool) -> None:
    """Run the demonstration and show what it measured."""
    began_s = time.monotonic()
    if not as_json:
        say(
            "One coordinator and four volunteers, each with the lines of one Shakespearean role, as processes of their",
            "own on this machine.  First rounds together, then each alone for as many steps, then measuring.",
            "",
        )
    with telling(as_json=as_json) as tell:
        outcome = Demonstration(folder, tell).run()
    took_s = time.monotonic() - began_s
    if as_json:
        show(values(outcome, took_s), as_json=True)
    else:
        show_outcome(outcome, took_s)


@contextmanager
def telling(*, as_json: bool) -> Iterator[Callable[[Moment], None]]:
    """Return what the demonstration tells its moments to."""
    if as_json:
        yield lambda m: show(
            {"event": "moment", "stage": m.stage, "done": m.done, "total": m.total, "news": m.news}, as_json=True
        )
    elif sys.stdout.isatty():
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()) as progress:
            yield _bars(progress)
    else:
        yield _lines()


def _bars(progress: Progress) -> Callable[[Moment], None]:
    tasks: dict[str, TaskID] = {}

    def tell(moment: Moment) -> None:
        if moment.stage not in tasks:
            tasks[moment.stage] = progress.add_task(moment.stage, total=moment.total)
        progress.update(tasks[moment.stage], completed=moment.done, total=moment.total)
        if moment.news:
            progress.console.print("  " + printable(moment.news), markup=False, highlight=False)

    return tell


def _lines() -> Callable[[Moment], None]:
    shown: dict[str, int] = {}
    began_s: dict[str, float] = {}

    def tell(moment: Moment) -> None:
        now_s = time.monotonic()
        spent_s = now_s - began_s.setdefault(moment.stage, now_s)
        percent = 100 * moment.done // max(1, moment.total)
        if percent >= shown.get(moment.stage, -EVERY) + EVERY:
            shown[moment.stage] = percent
            left = f", about {duration(spent_s * (100 - percent) / percent)} left" if 0 < percent < 100 else ""  # noqa: PLR2004
            say(f"{moment.stage}: {percent} %{left}")
        if moment.news:
            say("  " + moment.news)

    return tell


def show_outcome(outcome: Outcome, took_s: float) -> None:
    """Show the table, the bytes, where the adapter is, and what both answered."""
    arms = ("base", "alone", "shared")
    rows = [
        (v.name, v.tokens, *(f"{v.losses[arm]:.3f}" for arm in arms), size(v.sent_bytes), size(v.text_bytes))
        for v in outcome.volunteers
    ]
    rows.append(
        (
            "over all",
            sum(v.tokens for v in outcome.volunteers),
            *(f"{outcome.over_all(arm):.3f}" for arm in arms),
            size(sum(v.sent_bytes for v in outcome.volunteers)),
            size(sum(v.text_bytes for v in outcome.volunteers)),
        )
    )
    say("", "Loss on each volunteer's held-out text, in nats per token; lower is better:", "")
    table(("volunteer", "tokens", "base model", "alone", "shared", "sent", "text that stayed"), rows)
    better = sum(v.losses["shared"] < v.losses["base"] for v in outcome.volunteers)
    ahead = sum(v.losses["shared"] < v.losses["alone"] for v in outcome.volunteers)
    count = len(outcome.volunteers)
    gain = {arm: outcome.over_all(arm) - outcome.over_all("shared") for arm in arms}
    say(
        "",
        f"After {outcome.versions} versions the shared adapter beats the base on {better} of {count} volunteers' text,",
        f"and training alone on {ahead} of {count}.  Over all it is {gain['base']:.3f} nats better than the base,",
        f"and {abs(gain['alone']):.3f} {'better' if gain['alone'] > 0 else 'worse'} than training alone.",
        "",
        f"The released adapter: {outcome.release}",
        f"  check it: potluck verify {quote(str(outcome.release))}",
        f'  talk to it: potluck try "What is love?" --adapter {quote(str(outcome.release))}',
        "",
        f"Both go on from: {outcome.prompt.strip()}",
    )
    for name, text in outcome.replies.items():
        say(f"── {name}", *text.strip().split("\n"), "")
    say(f"All of this took {duration(took_s)}.")


def values(outcome: Outcome, took_s: float) -> dict[str, object]:
    """Return what was measured as plain values."""
    return {
        "event": "outcome",
        "volunteers": [
            {"name": v.name, "tokens": v.tokens, "losses": v.losses, "sent": v.sent_bytes, "kept": v.text_bytes}
            for v in outcome.volunteers
        ],
        "over_all": {arm: outcome.over_all(arm) for arm in ("base", "alone", "shared")},
        "versions": outcome.versions,
        "release": str(outcome.release),
        "replies": dict(outcome.replies),
        "took_s": took_s,
    }
