"""The three stages of a round by name, and how their settings reach them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, final

from potluck.aggregation.errors import BadSetting, UnknownName
from potluck.aggregation.outer.base import AnyOuter
from potluck.aggregation.outer.registry import OUTER
from potluck.aggregation.rules.base import AnyRule, Coordinatewise
from potluck.aggregation.rules.registry import AGGREGATORS
from potluck.aggregation.weights.ballot import Factor, Step
from potluck.aggregation.weights.registry import WEIGHTS

REBASING: Final = frozenset({"fedsvd"})
"""Rules of one trained factor after which the public one is another."""


class Stages(NamedTuple):
    """The objects that a pipeline's names and settings stand for."""

    rule: AnyRule
    factors: tuple[Factor, ...]
    """Of single updates, in any order: they are multiplied."""
    steps: tuple[Step, ...]
    """Of all updates together, in order."""
    outer: AnyOuter


@final
@dataclass(frozen=True, slots=True)
class Pipeline:
    """How updates become a new master: weights, then the rule, then the outer step, then the cut to a rank.

    Raises:
        UnknownName: nothing is registered under a name, or no chosen stage has a setting.
        BadSetting: a value out of range.
    """

    rule: str = "mean"
    """A key of AGGREGATORS."""
    weights: tuple[str, ...] = ("examples",)
    """Keys of WEIGHTS: first the factors of single updates, which are multiplied, then the steps, in order."""
    outer: str = "fedavg"
    """A key of OUTER."""
    rank: int | None = None
    """Columns of the master per module; by default 4 × the largest rank of an update, never below what it has."""
    f: int = 0
    """How many updates may be hostile, for steps and rules that defend."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Settings of the stages, by field name, such as eta; every chosen stage that has the field gets it."""
    screened: bool = False
    """Whether updates are compared with each other even where no weight step asks for it; the report has findings."""
    exact_up_to: int = 64
    """Updates up to which sums and inner products are exact; over a larger cohort they are sketched."""

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            raise BadSetting(f"weights is {self.weights!r}", fix=f'write a tuple: ("{self.weights}",)')
        if self.f < 0 or (self.rank is not None and self.rank < 1):
            raise BadSetting(f"f is {self.f} and rank is {self.rank}", fix="f is at least 0, rank at least 1 or none")
        self.stages()

    @property
    def keeps_basis(self) -> bool:
        """Whether clients train one factor and the public other one is the same after the round."""
        return self.stages().rule.trains != "both" and self.rule not in REBASING

    def stages(self) -> Stages:
        """Build the stages."""
        kinds = [named("aggregation rule", self.rule, AGGREGATORS), named("outer step", self.outer, OUTER)]
        kinds += [named("weight", name, WEIGHTS) for name in self.weights]
        known = {name for kind in kinds for name in settings_of(kind)}
        for name in self.settings:
            if name not in known:
                raise unknown("setting of this pipeline", name, known)
        rule, outer, *weights = [self._built(kind) for kind in kinds]
        if outer.elementwise and (rule.trains != "b" or self.rule in REBASING):  # its entries are those of B
            raise BadSetting(
                f"{self.outer} works entry by entry, and the rule {self.rule!r} leaves no fixed, public factor",
                fix="use a rule that trains one factor, such as 'ffa', or a linear outer step, such as 'fedavgm'",
            )
        return Stages(rule, *self._sorted(weights, rule, outer), outer)

    def _sorted(
        self, weights: list[Any], rule: AnyRule, outer: AnyOuter
    ) -> tuple[tuple[Factor, ...], tuple[Step, ...]]:
        """Return the factors and the steps, with the steps that the rule and the outer step need themselves."""
        flags = [isinstance(weight, Step) for weight in weights]
        if flags != sorted(flags):
            first = self.weights[flags.index(True)]
            raise BadSetting(
                f"a factor of single updates follows the step {first!r} in {self.weights}",
                fix="put factors such as 'examples' before every step",
            )
        steps = [weight for weight, step in zip(weights, flags, strict=True) if step]
        if isinstance(rule, Coordinatewise) and rule.needs:
            steps.append(self._built(named("weight", rule.needs, WEIGHTS)))
        if not outer.elementwise:
            steps.extend(outer.weighs())
        return tuple(weight for weight, step in zip(weights, flags, strict=True) if not step), tuple(steps)

    def _built(self, kind: Callable[..., Any]) -> Any:  # noqa: ANN401 - one of three Protocols
        return kind(**{name: as_counted(self.settings[name]) for name in settings_of(kind) if name in self.settings})


def as_counted(value: float) -> float:
    """Return a whole number as an integer: a recipe's reader makes every number a float, and some settings count."""
    return int(value) if float(value).is_integer() else value


def settings_of(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - any dataclass
    """Return the names of the settings that the stage *kind* has."""
    return tuple(field.name for field in fields(kind))


def named(what: str, name: str, registry: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return what *registry* has under *name*.

    Raises:
        UnknownName: it has nothing; the fix is the nearest name.
    """
    if name not in registry:
        raise unknown(what, name, set(registry))
    return registry[name]


def unknown(what: str, name: str, known: set[str]) -> UnknownName:
    """Return the error for a *name* that is not among *known*."""
    guess = get_close_matches(name, sorted(known), n=1)
    choices = ", ".join(sorted(known)) or "none: it has no settings"
    return UnknownName(
        f"no {what} is called {name!r}", fix=f"did you mean {guess[0]!r}?" if guess else f"choices: {choices}"
    )
