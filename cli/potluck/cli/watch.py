"""A session, watched: progress bars where a person is looking, plain lines elsewhere, JSON for programs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from potluck.cli.report import duration, printable, say, show
from potluck.client.events import (
    CheckedIn,
    GateTurned,
    Happening,
    Moved,
    Offline,
    Phase,
    Progressed,
    Received,
    Slept,
    Trouble,
    Waiting,
)

Watch = Callable[[Happening], None]
_QUIET = frozenset({"LEASED", "PREPARED", "OFFERING", "COMMITTING"})  # passed in a moment; a person need not read them


@contextmanager
def watching(*, as_json: bool) -> Iterator[Watch]:
    """Return what a session is to tell its events to, for as long as the block lasts."""
    if as_json:
        yield lambda event: show(jsonable(event), as_json=True)
    elif sys.stdout.isatty():
        with _bars() as watch:
            yield watch
    else:
        yield _say


def jsonable(event: Happening) -> dict[str, Any]:
    """Return *event* as plain JSON values; its kind is under "event"."""
    return {"event": type(event).__name__.lower(), **{f.name: plain(getattr(event, f.name)) for f in fields(event)}}


def sentence(event: Happening) -> str:  # noqa: C901, PLR0911 - one line for each kind of event
    """Return *event* in words, or nothing where a person need not know."""
    match event:
        case Moved(state=state, round=round_, reason=reason):
            if state.name in _QUIET:
                return ""
            return f"round {round_}: {state.value}" + (f" ({reason})" if reason else "")
        case CheckedIn(answer=answer):
            return f"checked in: {answer}"
        case Waiting(why=why, seconds=seconds):
            until = "until that changes" if seconds is None else f"next check-in at {_clock(seconds)}"
            return f"waiting: {why} · {until}"
        case Received(receipt=receipt):
            return (
                f"receipt {receipt.serial}: {receipt.verdict.lower().replace('_', ' ')} in round {receipt.round}, "
                f"{receipt.examples} examples at weight {receipt.staleness_weight:.2f}, credit {receipt.credit}"
            )
        case Slept(seconds=seconds):
            return f"the machine slept for {duration(seconds)}; going on where it was"
        case Offline(why=why, seconds=seconds):
            return f"offline: {why} · next try in {duration(seconds)}"
        case GateTurned(sentence=words):
            return words or "the machine is free: going on"
        case Trouble(message=message, fix=fix):
            return f"{message}" + (f"\n  fix: {fix}" if fix else "")
        case Progressed():
            return ""


@contextmanager
def _bars() -> Iterator[Watch]:
    """Draw one bar for each thing that is under way, and the sentences above them."""
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[Phase, TaskID] = {}

        def watch(event: Happening) -> None:
            if isinstance(event, Progressed):
                words = event.phase.value + ("" if event.loss is None else f" · loss {event.loss:.3f}")
                if event.phase not in tasks:
                    tasks[event.phase] = progress.add_task(words, total=event.total)
                progress.update(tasks[event.phase], completed=event.done, total=event.total, description=words)
                if event.done >= event.total:
                    progress.remove_task(tasks.pop(event.phase))
            elif words := sentence(event):
                console.print(*map(printable, words.split("\n")), sep="\n", markup=False)

        yield watch


def _say(event: Happening) -> None:
    """Print one line; of progress only the last."""
    if isinstance(event, Progressed):
        if event.done >= event.total:
            say(f"{event.phase.value}: done ({event.total})")
    elif words := sentence(event):
        say(*words.split("\n"))


def _clock(seconds: float) -> str:
    """Return the time of day in so many seconds, by this machine's clock."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    """Return *value* with bytes as hex, enums by name, and dataclasses as objects."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.name
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
