"""How often a client may take part where the run's guarantee counts it: what the store says, whatever clients say."""

from typing import NamedTuple, final

from potluck.coordinator.rounds import Situation, Terms, Why
from potluck.coordinator.store.database import Books
from potluck.wire.differential import Differential
from potluck.wire.recipe import Recipe


def resting(recipe: Recipe, books: Books, client_id: str, number: int | None) -> Why | None:
    """Return why that client may not take part in round *number*, which may be none; None where it may.

    It took part as often as `participations` allows, or less than `separation` rounds ago, or the run's rounds are
    used up.  A round that closed counts also where nothing came of it.
    """
    terms = recipe.privacy.differential
    if not terms.by_user or number is None:
        return None
    if number > terms.schedule.rounds:
        return Why.OVER
    before = [one for one in books.intake.rounds_of(client_id) if one != number]
    return Why.RESTING if before and _tired(terms, number, len(before), before[-1]) else None


@final
class Standstill(NamedTuple):
    """That a run cannot go on by itself."""

    reason: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.way_out}"


def standstill(recipe: Recipe, books: Books, now: Situation) -> Standstill | None:
    """Return why a run whose guarantee counts participations cannot go on, and what its operator can do about it.

    None where it can, or where it only waits for its first members.
    """
    terms, run = recipe.privacy.differential, Terms.of(recipe)
    if not terms.by_user or now.round is None or now.done(run):
        return None
    if now.round > terms.schedule.rounds:
        end = f"end it here with run.versions = {now.version}, or " if now.version else ""
        return Standstill(
            f"all {terms.schedule.rounds} rounds that this run's privacy allows are used up, some of them in vain: "
            f"version {now.version} of {run.last_version} is the last",
            f"{end}host a new run, which has an epsilon of its own",
        )
    gave = books.intake.participations(now.round)
    members = books.members.active_ids()
    rest = sum(one in gave and _tired(terms, now.round, *gave[one]) for one in members)
    least = recipe.privacy.cohort_minimum if run.summed else run.minimum
    if not rest or len(members) - rest >= least:
        return None
    return Standstill(
        f"{rest} of {len(members)} members rest, and a round takes {least} who may take part: each does so in at most "
        f"{terms.participations} rounds, {terms.separation} apart",
        "invite more volunteers: potluck invite",
    )


def _tired(terms: Differential, number: int, times: int, last: int) -> bool:
    """Whether a client that took part so many *times*, the *last* one in that round, may not in round *number*."""
    return times >= terms.participations or number - last < terms.separation
