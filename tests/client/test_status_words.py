"""What `potluck status` says of privacy cannot be taken for more than there is, or for less than was told."""

import math
from pathlib import Path

import pytest

from potluck.client.account import Account
from potluck.client.account import told_of as cost_of
from potluck.client.accounting import Spending, in_words
from potluck.client.clock import SystemClock
from potluck.client.errors import OverBudget
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.ledger import Ledger
from potluck.client.records import Membership
from potluck.client.status import told_of
from potluck.client.tasks import MembershipState
from potluck.wire.recipe import Recipe
from scripted import recipe

pytest.importorskip("dp_accounting")
NOISED = {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous"}


def words(folder: Path, run: Recipe) -> str:
    home = Home.at(folder)
    member = Membership(MembershipState.READY, "", "run-1", "r", "c", run.to_json(), run.digest(), "", "/data", 9)
    return told_of(home, identity_at(home.key), member)


def paid_elsewhere(folder: Path) -> Ledger:
    """Return a ledger with one round of another run."""
    home = Home.at(folder)
    ledger = Ledger.open(home.ledger, home.witness(identity_at(home.key).client_id))
    ledger.charge("another", b"l" * 16, Spending(200, 32, 1.5, 10), "5e" * 32, 1.0)
    return ledger


def test_before_the_first_private_round_nothing_is_used(tmp_path: Path):
    run = recipe(privacy={"differential": {"unit": "example", "epsilon": 4.0, "participations": 7}})

    assert words(tmp_path, run) == (
        "epsilon 0.00 used of the 4 that this run may tell of any one record, 0.00 of the 8 that you allow over all "
        "runs (delta 1e-05; the smaller, the less is told); 0 of 7 rounds"
    )


def test_what_other_runs_told_counts_for_what_the_owner_allows(tmp_path: Path):
    spent = paid_elsewhere(tmp_path).spent(1e-5)
    run = recipe(privacy={"differential": {"unit": "example", "epsilon": 4.0}})

    told = words(tmp_path, run)

    assert "epsilon 0.00 used of the 4" in told
    shown = float(told.split("any one record, ")[1].split(" ")[0])
    assert spent <= shown < spent + 0.01  # never less than it is


def test_a_run_without_privacy_says_so_whatever_other_runs_had(tmp_path: Path):
    """A limit of 8 that nothing keeps to must not stand there."""
    paid_elsewhere(tmp_path)

    told = words(tmp_path, recipe())

    assert told.startswith(
        "none: nothing is promised about what others can tell from an update; private rounds of other"
    )
    assert "of 8" not in told


def test_a_run_that_noises_sums_says_from_whom_it_protects(tmp_path: Path):
    unit = {"unit": "user-central", "epsilon": 100.0, "participations": 2}
    run = recipe(run={"versions": 2}, aggregation=NOISED, privacy={"differential": unit})

    assert words(tmp_path, run) == (
        "the coordinator adds noise before it publishes: epsilon 100 at delta 1e-05 for all that you give over the "
        "run, from everybody but the coordinator"
    )


def test_a_ledger_that_is_refused_is_told_and_the_rest_of_the_status_stays(tmp_path: Path):
    paid_elsewhere(tmp_path)
    Home.at(tmp_path).ledger.unlink()

    told = words(tmp_path, recipe(privacy={"differential": {"unit": "example"}}))

    assert told.startswith("no private round can be trained here: the ledger has 0 lines, and its witness")


def test_an_epsilon_that_nobody_can_bound_is_told_in_words(tmp_path: Path):
    """As of a recipe from before delta had a floor: where delta is as small as rounding, accountants find none."""
    ledger = paid_elsewhere(tmp_path)
    run = recipe(privacy={"differential": {"unit": "example", "epsilon": 4.0, "noise": 2.0}})
    terms = run.privacy.differential.model_copy(update={"delta": 1e-15})
    run = run.model_copy(update={"privacy": run.privacy.model_copy(update={"differential": terms})})

    assert math.isinf(ledger.spent(1e-15))
    assert (in_words(ledger.spent(1e-15)), in_words(0.101), in_words(2.0, 3)) == ("without bound", "0.11", "2.000")
    assert math.isinf(cost_of(ledger, run, "another").epsilon)
    with pytest.raises(OverBudget, match=r"from 0\.000 to without bound at delta 1e-15, and the run's recipe allows 4"):
        Account(ledger, "this", bytes(16), 8.0, SystemClock()).check(run, 200, "5e" * 32)
