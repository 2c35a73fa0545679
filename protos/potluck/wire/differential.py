"""The recipe's table [privacy.differential]: what of a volunteer nobody can tell from what is published, in numbers."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, final

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.private.banded import Schedule
from potluck.aggregation.private.gaussian import noise_of
from potluck.aggregation.private.learnable import HOPELESS, Prospect, prospect
from potluck.wire.settings import Settings, idle

if TYPE_CHECKING:  # the recipe that this table is in
    from potluck.wire.recipe import Recipe

LINEAR: Final = ("ffa", "rolora", "fedsvd")
"""Rules into whose mean noise enters as noise: one factor moves, the other one is public and the same for all."""

LEAST_DELTA: Final = 1e-12
"""Below it the rounding of accountants is as large as delta, so that they find no epsilon at all (from 1e-15 on)."""

LEAST_NOISE: Final = 0.1
"""With less, a step on a handful of records tells more than any epsilon that is allowed, and takes minutes to count."""

_BOTH: Final = ("example", "user-central")
_USES: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("epsilon", "delta", "noise", "participations"), (_BOTH, 'unit = "example" or unit = "user-central"')
        ),
        "clip": (("example",), 'unit = "example"; the bound of a whole update is privacy.clip'),
        "cap": (("example",), 'unit = "example", which draws records'),
        "separation": (("user-central",), 'unit = "user-central"'),
    }
)
"""Of every key: the units that use it, and in words."""


@final
class Differential(Settings):
    """The table [privacy.differential]: what one cannot tell from what leaves; see docs/privacy.md."""

    unit: Literal["none", "example", "user-central"] = "none"
    """What is protected: "example": one record of a volunteer, from everybody; "user-central": all that a volunteer
    gives, from everybody but the coordinator."""
    epsilon: Annotated[float, Field(gt=0, le=100)] = 8.0
    """How much may be told of one record, or of one volunteer, over the whole run; smaller protects more."""
    delta: Annotated[float, Field(gt=0, lt=1e-3)] = 1e-5
    """Chance with which epsilon does not hold; below a tenth of one over the number of records, or of volunteers."""
    clip: PositiveFloat = 1.0
    """Largest norm of one record's gradient, for "example"; a larger one is shrunk to it."""
    noise: NonNegativeFloat = 0.0
    """Noise on a sum as a multiple of the clip; 0: as much as epsilon takes over all participations."""
    participations: PositiveInt = 20
    """Rounds in which one volunteer takes part at the most."""
    separation: PositiveInt = 1
    """Rounds from one participation of a volunteer to the next, at the least; for "user-central"."""
    cap: NonNegativeInt = 0
    """Records in one step at the most, for "example"; 0 means as many as chance draws."""

    @model_validator(mode="after")
    def _units_differ(self) -> Self:
        unused = {key: use for key, (units, use) in _USES.items() if self.unit not in units}
        if found := [*idle(self, "privacy.differential", unused)]:
            raise BadSetting(
                f'privacy.differential.unit is "{self.unit}": {"; ".join(why for why, _ in found)}',
                fix="; ".join(fix for _, fix in found),
            )
        if self.delta < LEAST_DELTA:
            raise BadSetting(
                f"privacy.differential.delta is {self.delta:g}, and below {LEAST_DELTA:g} nobody can account for it",
                fix=f"set delta to {LEAST_DELTA:g} or more: a tenth of one over the number of records or volunteers "
                "is small enough",
            )
        if self.unit == "example" and 0 < self.noise < LEAST_NOISE:
            raise BadSetting(
                f"privacy.differential.noise is {self.noise:g}, and below {LEAST_NOISE:g} it protects nobody",
                fix=f"set noise to {LEAST_NOISE:g} or more, or to 0: it is then worked out from epsilon",
            )
        if self.unit == "user-central" and self.noise and self.noise < (least := noise_of(self.epsilon, self.delta)):
            raise BadSetting(
                f"privacy.differential.noise is {self.noise:g}, and epsilon {self.epsilon:g} takes {least:.4f}",
                fix="set noise to 0: it is then worked out from epsilon",
            )
        return self

    @property
    def by_example(self) -> bool:
        """Whether volunteers train so that no record can be told from its absence."""
        return self.unit == "example"

    @property
    def by_user(self) -> bool:
        """Whether the coordinator adds noise to what it publishes."""
        return self.unit == "user-central"

    @property
    def schedule(self) -> Schedule:
        """How often a volunteer may take part, and how many rounds the run has then."""
        return Schedule(self.participations * self.separation, self.separation, self.participations)

    @property
    def multiplier(self) -> float:
        """Noise of the Gaussian mechanism that a run under "user-central" is."""
        return self.noise or noise_of(self.epsilon, self.delta)

    def prospect(self, numbers: int, cohort: int) -> Prospect:
        """Return what a run under "user-central" can expect: *numbers* in an update, *cohort* updates in a round."""
        return prospect((self.epsilon, self.delta), self.schedule, numbers, cohort)

    def check(self, recipe: "Recipe") -> None:
        """Return quietly where *recipe* can give what this table promises, and can learn under it.

        Raises:
            BadSetting: it cannot; every reason is named with what to do about it.
        """
        found = [*_example(recipe)] if self.by_example else [*_user(recipe)] if self.by_user else []
        if found:
            raise BadSetting(
                f'privacy.differential.unit is "{self.unit}", and {"; ".join(why for why, _ in found)}',
                fix="; ".join(fix for _, fix in found),
            )
        if self.by_user and recipe.model.modules:
            self._learnable(recipe)

    def _learnable(self, recipe: "Recipe") -> None:
        """Refuse what would drown in its own noise, with the arithmetic."""
        cohort = recipe.aggregation.cohort
        seen = self.prospect(update_numbers(recipe), cohort)
        if seen.hopeless:
            once = prospect((self.epsilon, self.delta), Schedule(1, 1, 1), seen.numbers, cohort)
            raise BadSetting(
                f"noise would drown what is learned: epsilon {self.epsilon:g} over {self.participations} "
                f"participations takes noise of {seen.per_round:.2f} clips in each of {seen.numbers:,} numbers; "
                f"{seen.per_round:.2f} · √{seen.numbers:,} / {cohort} clients = {seen.ratio:.1f} times the largest "
                f"update, and above {HOPELESS:g} nothing is learned",
                fix=f"train at most {seen.most_numbers:,} numbers (a smaller adapter.rank, fewer adapter.targets), or "
                f"have at least {seen.least_clients:,} clients in a round, or participations = 1 (then "
                f'{once.ratio:.1f}), or protect single records: unit = "example"',
            )


def update_numbers(recipe: "Recipe") -> int:
    """Return how many numbers an update holds; where a rule alternates between factors, of the larger kind."""
    sides = recipe.modules().values()
    d, k = sum(d for d, _ in sides), sum(k for _, k in sides)
    of = {"both": d + k, "b": d, "a": k}
    return recipe.adapter.rank * max(of[recipe.moves(version)] for version in (0, 1))


def _example(recipe: "Recipe") -> Iterator[tuple[str, str]]:
    """Yield what private training of single records cannot have, as (what is wrong, what to do)."""
    if recipe.training.proximal:
        yield f"training.proximal is {recipe.training.proximal:g}, which is not noised with the rest", "set it to 0"
    yield from idle(
        recipe.training, "training", {"clip_grad_norm": "training without noise; privacy.differential.clip bounds here"}
    )


def _user(recipe: "Recipe") -> Iterator[tuple[str, str]]:
    """Yield what noise on a sum cannot have."""
    aggregation, schedule = recipe.aggregation, recipe.privacy.differential.schedule
    if aggregation.rule not in LINEAR:
        yield (
            f"aggregation.rule {aggregation.rule!r} does not add up one factor, so that noise would be multiplied",
            f"use one of {', '.join(map(repr, LINEAR))}",
        )
    if aggregation.weights != ("uniform",):
        yield f"aggregation.weights are {list(aggregation.weights)}: one client could weigh more", '["uniform"]'
    if aggregation.hostile:
        yield f"aggregation.hostile is {aggregation.hostile}: leaving updates out depends on them", "set it to 0.0"
    if aggregation.mode != "synchronous":
        yield "aggregation.mode is not synchronous, and participation is counted in rounds", 'set mode = "synchronous"'
    if not 0 < recipe.run.versions <= schedule.rounds:
        yield (
            f"run.versions is {recipe.run.versions}, and epsilon counts participations times separation rounds",
            f"set run.versions to 1 to {schedule.rounds}, or raise separation",
        )
