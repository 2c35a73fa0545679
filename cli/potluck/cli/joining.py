"""`potluck join`: look, show the card, ask, enrol, then work until there is a reason to end."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import typer

from potluck.aggregation.errors import PotluckError
from potluck.cli.report import say, show, warn
from potluck.cli.watch import watching
from potluck.client import data
from potluck.client.account import Account
from potluck.client.checks import Check, Verdict
from potluck.client.clock import SystemClock
from potluck.client.consent import ConsentCard, Estimate, rough_estimate
from potluck.client.endings import Ended, Ending
from potluck.client.flags import Flagger, Sieve, Sieved, sieve_of
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.join import enrol
from potluck.client.ledger import Ledger
from potluck.client.limits import UNKEEP, Limits, limits_at
from potluck.client.link import Alone, Link
from potluck.client.outbox.store import Outbox
from potluck.client.preflight import Preflight, Site
from potluck.client.records import Control, Membership
from potluck.client.sensors import MachineSensors
from potluck.client.session import Around, Session
from potluck.client.tasks import MembershipState
from potluck.wire.recipe import Recipe

MARKS: Final = {Verdict.OK: "ok   ", Verdict.WARNING: "mind ", Verdict.ERROR: "ERROR"}
CARRIED_BYTES: Final = 98_400_000  # the package's model file; converting it needs 540 MB more on disk

TORCH_BYTES: Final = 700_000_000  # of memory that torch and transformers take before any model


class NotAgreed(PotluckError):
    """The owner did not say yes."""


@final
@dataclass(frozen=True, slots=True)
class Joining:
    """What `potluck join` was asked for."""

    invite: str
    data: Path | None
    name: str
    yes: bool
    keep_flagged: bool = False


def run_join(asked: Joining, *, as_json: bool) -> None:
    """Join a run, or go on with the one that this home is in."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    home = Home.of_user(os.environ)
    with home.occupied():  # a second session is told before it changes what the first one works on
        pass
    outbox = Outbox.open(home.outbox)
    try:
        token = token_of(asked.invite)
        member = outbox.membership()
        if not goes_on(member, token, asked.data):
            member = newly(asked, token, member, home, outbox, as_json=as_json)
        if asked.keep_flagged:  # after the owner agreed, and was let in: a join that fails changes nothing
            keep_flagged(home, as_json=as_json)
        if member is None:
            return
        outbox.ask(Control())  # starting is a wish to work: an old pause or finish is over
        ended = work(home, outbox, as_json=as_json)
    finally:
        outbox.close()
    tell_end(ended, as_json=as_json)


def token_of(text: str) -> str:
    """Return the invite, which may stand in a file."""
    path = Path(text)
    try:
        return path.read_text("utf-8") if text and len(text) < 1_024 and path.is_file() else text  # noqa: PLR2004 - a path's length
    except (OSError, UnicodeDecodeError):
        return text


def goes_on(member: Membership | None, token: str, path: Path | None) -> bool:
    """Whether there is nothing to agree to: this home is in that run already, with that text."""
    if member is None or member.state is MembershipState.ENROLLING:
        return False
    same_run = not token or "".join(token.split()) == member.token
    return same_run and (path is None or str(path.absolute()) == member.data_path)


def newly(
    asked: Joining, token: str, member: Membership | None, home: Home, outbox: Outbox, *, as_json: bool
) -> Membership | None:
    """Check, show, ask, enrol."""
    token = token or (member.token if member else "")
    path = asked.data or (Path(member.data_path) if member else None)
    if not token:
        raise NotAgreed("this home is in no run yet", fix="join one: potluck join INVITE --data FOLDER")
    if path is None:
        raise NotAgreed("it is not said what to train on", fix="name your text: --data FOLDER")
    keeps = asked.keep_flagged or limits_at(home.limits).keep_flagged
    found = Preflight(token, site(home, outbox, path, keeps=keeps))
    for check in found:
        tell_check(check, as_json=as_json)
    if not found.ok and not as_json:
        failed = sum(check.verdict is Verdict.ERROR for check in found.checks)
        raise NotAgreed(
            f"not joined: {failed} of {len(found.checks)} checks failed", fix="mend it as said above, then try again"
        )
    card = found.card()
    tell_card(card, limits_at(home.limits).model_copy(update={"keep_flagged": keeps}), found.recipe, as_json=as_json)
    agree(asked)
    name = asked.name or (member.name if member else "")
    return enrol(found, card, name, outbox, identity_at(home.key))


def keep_flagged(home: Home, *, as_json: bool) -> None:
    """Train on flagged samples too from now on, and say that it stays so."""
    limits = limits_at(home.limits)
    if limits.keep_flagged:
        return
    limits.model_copy(update={"keep_flagged": True}).write(home.limits)
    if not as_json:
        say(f"flagged samples are trained on from now on, in other runs and by `potluck personalize` too; {UNKEEP}")


def site(home: Home, outbox: Outbox, path: Path, *, keeps: bool) -> Site:
    """Return this machine as the preflight looks at it; *keeps*: flagged samples are trained on."""
    clock = SystemClock()
    return Site(
        clock=clock,
        link=lambda invitation: Link(invitation, Alone(), np.random.default_rng()),
        reading=MachineSensors(home.folder, clock).read(outbox.control()),
        data=path,
        count_examples=lambda data, recipe: count_examples(data, recipe, sieve_of(keep_flagged=keeps)),
        estimate=lambda recipe: estimate(recipe, home.cache),
        afford=lambda recipe, run_id, records: afford(home, recipe, run_id, records),
        base_problem=lambda recipe: "" if base_is_here(recipe, home.cache) else f"{recipe.model.base} is not here yet",
    )


def afford(home: Home, recipe: Recipe, run_id: str, records: int) -> None:
    """Return quietly where one more private round of that run, on so many *records*, may be told.

    Raises:
        OverBudget, BadSetting, NoAccountant, BadLedger: it may not.
    """
    client_id = identity_at(home.key).client_id if home.key.exists() else ""
    ledger = Ledger.open(home.ledger, home.witness(client_id))
    Account(ledger, run_id, b"", limits_at(home.limits).max_epsilon, SystemClock()).check(recipe, records, "")


def _sieve(home: Home) -> Sieve:
    """Return what leaves out of the text what the owner does not want in it."""
    return sieve_of(keep_flagged=limits_at(home.limits).keep_flagged)


def count_examples(path: Path, recipe: Recipe, sieve: Sieve) -> int:
    """Return how many samples there are to train on, those that are flagged and the held-out ones left out."""
    samples = sieve(data.read(path, recipe.data.format)).samples
    return len(data.split(samples, recipe.data.held_out, data.SPLIT_SEED).train)


def estimate(recipe: Recipe, cache: Path) -> Estimate:
    """Return what a round asks of this machine."""
    rough = rough_estimate(recipe)
    logits = 3 * 4 * recipe.training.batch * recipe.data.max_tokens * 2_048  # activations of a small model, float32
    download = CARRIED_BYTES if recipe.model.base.startswith("package:") else None  # a hub's sizes are not asked for
    download = 0 if base_is_here(recipe, cache) else download
    return Estimate(download_bytes=download, ram_bytes=TORCH_BYTES + rough.ram_bytes * 2 + logits, minutes=None)


def base_is_here(recipe: Recipe, cache: Path) -> bool:
    """Whether the base model need not be downloaded; says nothing about whether it is the right one."""
    base = recipe.model.base
    if base.startswith("package:"):
        return any(path.is_dir() for path in cache.glob(f"{base.removeprefix('package:')}-*"))
    if Path(base).expanduser().is_dir():
        return True
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    return (hub / f"models--{base.replace('/', '--')}").is_dir()


def tell_check(check: Check, *, as_json: bool) -> None:
    """Tell how one check went."""
    if as_json:
        show(
            {"event": "check", "name": check.name, "verdict": check.verdict.value, "message": check.message},
            as_json=True,
        )
        return
    say(f"{MARKS[check.verdict]}  {check.name}: {check.message}")
    if check.fix and check.verdict is not Verdict.OK:
        say(f"       fix: {check.fix}")


def tell_card(card: ConsentCard, limits: Limits, recipe: Recipe | None, *, as_json: bool) -> None:
    """Show what the owner is asked to agree to, and three of the samples that it is about."""
    keeps, path = limits.keep_flagged, Path(card.data_path)
    sieved = Flagger().sieve(data.read(path, recipe.data.format if recipe else "auto"), keep=keeps)
    lines = dict(card.lines()) | {"Looks private": flagged_words(sieved, keeps=keeps)}
    if as_json:
        show({"event": "card", **lines}, as_json=True)
        return
    say("")
    show(lines)
    say("", limits.sentence(os.cpu_count() or 1), "")
    seen = data.preview(sieved.dataset)
    say(f"Your text: {seen.rows} samples, {seen.characters:,} characters. It begins like this, and stays here:")
    say(*(f"  “{text}”" for text in seen.samples))
    for left_out in seen.skipped[:5]:
        say(f"  left out: {left_out.where}: {left_out.reason}")
    if len(seen.skipped) > 5:  # noqa: PLR2004
        say(f"  … and {len(seen.skipped) - 5} more left out")
    say("")


def flagged_words(sieved: Sieved, *, keeps: bool) -> str:
    """Say what looks like a secret or personal data, so that only its owner knows it again, and what becomes of it."""
    if not sieved.flagged:
        return "nothing that was found by its form; a name or a story is not found, so look yourself"
    kinds = "; ".join(f"{kind}: {count}, such as {sieved.examples[kind]}" for kind, count in sieved.kinds.items())
    fate = f"all are trained on, as you wished; {UNKEEP}" if keeps else "left out; --keep-flagged takes them too"
    return f"{sieved.flagged} of your samples ({kinds}): {fate}"


def agree(asked: Joining) -> None:
    """Ask the owner; the default is no.

    Raises:
        NotAgreed: the answer is no, or nobody can be asked.
    """
    if asked.yes:
        return
    if not sys.stdin.isatty():
        raise NotAgreed("nobody is here to agree to the card", fix="read it, then run the same command with --yes")
    if not typer.confirm("Do you agree, and take part?", default=False):
        raise NotAgreed("you did not agree; nothing was sent but the invite", fix="join later with the same command")


def work(home: Home, outbox: Outbox, *, as_json: bool) -> Ended:
    """Run a session; the first Ctrl-C ends it with a checkpoint, the second at once."""
    from potluck.client.training.local import LocalTrainer

    with watching(as_json=as_json) as watch:
        told = (lambda _: None) if as_json else say
        session = Session(home, outbox, LocalTrainer(home.cache, told, _sieve(home)), Around(on_event=watch))
        with _signals(session):
            return session.run()


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """Turn the first Ctrl-C or TERM into a request, the second into an end."""
    asked = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            os._exit(130)
        asked = True
        warn("stopping at the next step, with a checkpoint; Ctrl-C again ends at once")
        session.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def tell_end(ended: Ended, *, as_json: bool) -> None:
    """Say why it is over, and what comes next."""
    if as_json:
        show(
            {"event": "end", "ending": ended.ending.name, "human": ended.human, "counted": ended.counted}, as_json=True
        )
        return
    say(ended.ending.value + (f": {ended.human}" if ended.human and ended.ending is not Ending.RUN_DONE else ""))
    if ended.ending is Ending.INTERRUPTED:
        say("go on: potluck join")
    elif ended.ending is Ending.RUN_DONE:
        say('see what came out: potluck try "a prompt"        keep it: potluck export --to FOLDER')
    elif ended.ending is Ending.CONSENT_REQUIRED:
        say("read the new card, and agree to it or not: potluck join")
