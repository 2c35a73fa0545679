"""A run under "user-central", with little noise: three clients could learn nothing under more."""

from potluck.wire.recipe import Recipe
from scripted import recipe

COHORT = 3


def noised_recipe(participations: int = 2, separation: int = 1, *, versions: int = 0, **aggregation: object) -> Recipe:
    """Return a recipe of rounds of three updates, two of which are enough at the deadline, 60 s."""
    rounds = {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous", "cohort": COHORT}
    terms = {"unit": "user-central", "epsilon": 100.0, "participations": participations, "separation": separation}
    return recipe(
        run={"versions": versions or participations * separation},
        model={"modules": {"model.layers.0.self_attn.q_proj": [400, 12]}},
        aggregation={**rounds, "minimum": 2, **aggregation},
        privacy={"differential": terms},
    )
