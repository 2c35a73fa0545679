"""What `potluck status` and `potluck history` show, read from any process."""

from dataclasses import dataclass
from typing import Final, final

from potluck.client.accounting import in_words
from potluck.client.consent import mode_of
from potluck.client.errors import BadLedger, NoAccountant
from potluck.client.gate import Reason
from potluck.client.home import Home
from potluck.client.identity import Identity, identity_at
from potluck.client.ledger import Ledger
from potluck.client.limits import limits_at
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control, KeptReceipt, Membership, Task, Traffic
from potluck.wire.recipe import Recipe

RECENT: Final = 5


@final
@dataclass(frozen=True, slots=True)
class Status:
    """Where this home stands."""

    running: bool
    pid: int  # of the running process; 0 if none
    client_id: str  # empty before the first join
    display: str
    membership: Membership | None
    privacy: str  # what protects the owner in this run, and what of it is used up; empty before the first join
    mode: str  # who can read an update, in a few words; empty before the first join
    control: Control
    activity: str  # what it does, why, until when; as the running process said last
    reasons: tuple[str, ...]  # why the gate is shut, in words; empty: open
    next_check_in_unix_s: float | None
    tasks: tuple[Task, ...]  # not over yet; what is delivered next comes first
    receipts: tuple[KeptReceipt, ...]  # the last few, newest first
    updates: int  # receipts in all
    credit: int  # in examples, in all
    traffic: Traffic


def status_of(home: Home) -> Status:
    """Return where *home* stands; changes nothing and waits for nobody."""
    running = home.in_use
    outbox = Outbox.open(home.outbox)
    try:
        now = outbox.now()
        updates, credit = outbox.credit()
        membership = outbox.membership()
        identity = identity_at(home.key) if home.key.exists() else None
        return Status(
            running=running,
            pid=now.pid if running else 0,
            client_id="" if identity is None else identity.client_id,
            display="" if identity is None else identity.display,
            membership=membership,
            privacy=told_of(home, identity, membership),
            mode="" if membership is None else mode_of(Recipe.offered(membership.recipe_json)),
            control=outbox.control(),
            activity=now.activity if running else "not running",
            reasons=tuple(Reason[name].value for name in now.reasons) if running else (),
            next_check_in_unix_s=now.next_check_in_unix_s if running else None,
            tasks=outbox.open_tasks(),
            receipts=outbox.receipts(RECENT),
            updates=updates,
            credit=credit,
            traffic=outbox.traffic(),
        )
    finally:
        outbox.close()


def told_of(home: Home, identity: Identity | None, membership: Membership | None) -> str:
    """Return what protects the owner in this run and what of it is used up, in a sentence; empty in no run."""
    if identity is None or membership is None:
        return ""
    terms = Recipe.offered(membership.recipe_json).privacy.differential
    try:
        ledger = Ledger.open(home.ledger, home.witness(identity.client_id))
        here, everywhere = (in_words(ledger.spent(terms.delta, run_id)) for run_id in (membership.run_id, ""))
    except (BadLedger, NoAccountant) as error:
        return f"no private round can be trained here: {error}"
    if terms.by_example:
        return (
            f"epsilon {here} used of the {terms.epsilon:g} that this run may tell of any one record, {everywhere} of "
            f"the {limits_at(home.limits).max_epsilon:g} that you allow over all runs (delta {terms.delta:g}; the "
            f"smaller, the less is told); {len(ledger.rounds(membership.run_id))} of {terms.participations} rounds"
        )
    others = f"; private rounds of other runs told epsilon {everywhere} of any one record" if ledger.entries else ""
    if terms.by_user:
        return (
            f"the coordinator adds noise before it publishes: epsilon {terms.epsilon:g} at delta {terms.delta:g} for "
            f"all that you give over the run, from everybody but the coordinator{others}"
        )
    return f"none: nothing is promised about what others can tell from an update{others}"


@final
@dataclass(frozen=True, slots=True)
class History:
    """What happened in this home, newest first."""

    receipts: tuple[KeptReceipt, ...]
    tasks: tuple[Task, ...]  # with the reason of those that were dropped
    updates: int
    credit: int


def history_of(home: Home, limit: int = 100) -> History:
    """Return the last *limit* receipts and tasks of *home*."""
    outbox = Outbox.open(home.outbox)
    try:
        return History(outbox.receipts(limit), outbox.tasks(limit), *outbox.credit())
    finally:
        outbox.close()
