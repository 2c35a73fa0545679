"""How often a client may take part where the run's guarantee counts it: what the store says, whatever clients say."""

from potluck.coordinator.store.database import Books
from potluck.wire.recipe import Recipe


def resting(recipe: Recipe, books: Books, client_id: str, number: int | None) -> bool:
    """Whether that client may not take part in round *number*, which may be none.

    It took part as often as `participations` allows, or less than `separation` rounds ago, or the run's rounds are
    used up.  A round that closed counts also where nothing came of it.
    """
    terms = recipe.privacy.differential
    if not terms.by_user or number is None:
        return False
    before = [one for one in books.intake.rounds_of(client_id) if one != number]
    late = bool(before) and number - before[-1] < terms.separation
    return number > terms.schedule.rounds or len(before) >= terms.participations or late
