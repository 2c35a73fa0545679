"""What the owner of a volunteering machine asks for; a running session hears it within a second."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Final

import typer

from potluck.cli.report import duration, say, show, size, table
from potluck.cli.watch import plain
from potluck.client.errors import HomeInUse
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.leaving import leave_now
from potluck.client.outbox.store import Outbox, joined
from potluck.client.records import Control, Task
from potluck.client.status import Status, history_of, status_of

ORPHANED: Final = (
    "The shared adapter that your personal one is over is removed here, and `try` and `export` cannot use yours "
    "without it; to keep both, first: potluck export --personal --to FOLDER."
)


@contextmanager
def _outbox() -> Iterator[Outbox]:
    """Open the outbox of the user's home."""
    outbox = Outbox.open(Home.of_user(os.environ).outbox)
    try:
        yield outbox
    finally:
        outbox.close()


def pause(span_s: float | None) -> None:
    """Pause, for a while or until resumed."""
    with _outbox() as outbox:
        joined(outbox)
        until = None if span_s is None else time.time() + span_s
        outbox.ask(replace(outbox.control(), paused=True, paused_until_unix_s=until))
    say("paused " + ("until you say `potluck resume`" if span_s is None else f"for {duration(span_s)}"))


def resume() -> None:
    """Take a pause, or a finish that was not carried out yet, back."""
    with _outbox() as outbox:
        joined(outbox)
        outbox.ask(Control())
    running = Home.of_user(os.environ).in_use
    say("resumed" if running else "resumed; nothing runs here now: start with `potluck join`")


def finish() -> None:
    """Take no more work, deliver, stop."""
    with _outbox() as outbox:
        joined(outbox)
        outbox.ask(replace(outbox.control(), finish=True))
    running = Home.of_user(os.environ).in_use
    say(
        "finishing: what is under way is delivered, then it stops"
        if running
        else "nothing runs here now; `potluck join` goes on and would start anew"
    )


def leave(*, purge: bool, yes: bool) -> None:
    """Leave the run, by way of the running session where there is one; where none was joined, there is only to purge.

    Raises:
        NotJoined: this home is in no run, and nothing was to be removed.
        HomeInUse: a session runs, which has to leave before anything is removed, or a personal adapter is being made.
    """
    home = Home.of_user(os.environ)
    if purge:
        with home.personalizing():  # told before anything is left, not after
            pass
    with _outbox() as outbox:
        member = outbox.membership() if purge else joined(outbox)
        asked = [f"Leave {member.run_name!r}?"] if member else []
        if member and not purge and home.personal(member.run_id).exists():
            asked.append(ORPHANED)
        empty = member is None and home.bare
        if not yes and not typer.confirm(" ".join([*asked, *(_purged(home) if purge else ())]), default=False):
            say("nothing changed")
            return
        if member and home.in_use:
            outbox.ask(replace(outbox.control(), leave=True))
            if purge:
                raise HomeInUse(
                    "the running session was asked to leave; nothing is removed while it runs",
                    fix="when it has ended, once more: potluck leave --purge",
                )
            say("the running session leaves at its next step")
            return
    if member:
        say(f"you left; {leave_now(home)} of your updates are in published versions and stay there")
    if purge:
        ledger = f", and so does {home.ledger}: what was told cannot be taken back" if home.ledger.exists() else ""
        home.purge(identity_at(home.key).client_id if home.key.exists() else "")
        removed = f"there was nothing of yours in {home.folder}" if empty else f"removed what was in {home.folder}"
        say(f"{removed}; base models in {home.cache} stay{ledger}")


def _purged(home: Home) -> Iterator[str]:
    """Yield what a purge removes and what it does not, as far as it is here."""
    yield "Key, receipts and work are removed from this machine."
    if any(home.personal_folder.glob("*.sealed")):
        yield "Your personal adapter is removed too, for good."
    if home.ledger.exists():
        yield (
            "The ledger of what private rounds told of your text (ledger.jsonl) stays: it cannot be untold, and "
            "joining again must not begin with a new budget."
        )


def show_own_status(*, as_json: bool) -> None:
    """Show where this home stands."""
    home = Home.of_user(os.environ)
    now = status_of(home)
    if as_json:
        show({name: plain(value) for name, value in _values(now).items()}, as_json=True)
        return
    if now.membership is None:
        say("this home is in no run; join one: potluck join INVITE --data FOLDER")
        return
    member = now.membership
    lines = {
        "run": f"{member.run_name} ({member.state.name.lower()})",
        "you are": now.display,
        "now": now.activity + _until(now.next_check_in_unix_s) + (" (paused)" if now.control.paused else ""),
        "held up by": "; ".join(now.reasons) or "nothing",
        "updates": now.mode,
        "privacy": now.privacy,
        "work": "\n".join(_task(task) for task in now.tasks) or "none under way",
        "given": f"{now.updates} updates, credit {now.credit} examples",
        "traffic": f"{size(now.traffic.sent)} sent, {size(now.traffic.received)} received",
        "your text": f"{member.data_path}: {member.examples} examples, none of them ever sent",
        "kept in": str(home.folder),
    }
    show(lines)


def show_own_history(limit: int, *, as_json: bool) -> None:
    """List receipts, newest first."""
    found = history_of(Home.of_user(os.environ), limit)
    if as_json:
        for receipt in found.receipts:
            show({name: plain(value) for name, value in asdict(receipt).items()}, as_json=True)
        return
    if not found.receipts:
        say("no receipts yet")
        return
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(r.received_unix_s)),
            r.round,
            r.verdict.lower().replace("_", " "),
            r.examples,
            f"{r.staleness_weight:.2f}",
            r.credit,
            r.digest.hex()[:12],
        )
        for r in found.receipts
    ]
    table(("when", "round", "verdict", "examples", "weight", "credit", "update"), rows)
    say("", f"{found.updates} receipts in all, credit {found.credit} examples")


def _values(now: Status) -> dict[str, object]:
    """Return a status as plain values, without the invite: it is a key to the run."""
    values = asdict(now)
    if values["membership"] is not None:
        for secret in ("token", "recipe_json"):
            values["membership"].pop(secret)
    for receipt in values["receipts"]:
        receipt.pop("envelope")
    return values


def _task(task: Task) -> str:
    """Return one task in a line."""
    steps = f", step {task.steps_done} of {task.steps_total}" if task.steps_total else ""
    return f"round {task.terms.round}: {task.state.value}{steps}"


def _until(moment_s: float | None) -> str:
    """Return until when, by this machine's clock."""
    return "" if moment_s is None else time.strftime(" · next check-in at %H:%M:%S", time.localtime(moment_s))
