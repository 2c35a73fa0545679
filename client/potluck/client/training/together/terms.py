"""What a lesson changes of the recipe, and what its training starts from."""

from pathlib import Path

from potluck.aggregation import Start, start
from potluck.client.lessons import Lesson, Term
from potluck.client.starts import adapter_in
from potluck.wire.recipe import Recipe


def suited(recipe: Recipe, lesson: Lesson) -> Recipe:
    """Return *recipe* with the lesson's own rank and steps."""
    if not lesson.rank and not lesson.steps:
        return recipe
    adapter = recipe.adapter.model_copy(update={"rank": lesson.rank or recipe.adapter.rank})
    training = recipe.training.model_copy(update={"steps": lesson.steps or recipe.training.steps})
    return recipe.model_copy(update={"adapter": adapter, "training": training})


def started(term: Term, rank: int) -> Start:
    """Return what every client of *rank* (0: the recipe's) starts from: trainable factors and the frozen rest.

    Raises:
        BadTensor: the adapter is damaged or does not fit the recipe.
    """
    recipe = suited(term.recipe, Lesson(data=Path(), order=0, rank=rank))
    published = adapter_in(term.adapter, term.recipe) if term.adapter else {}
    settings = recipe.adapter
    return start(
        published, recipe.modules(), init=recipe.init, rank=settings.rank, scale=settings.scale, seed=term.seed
    )
