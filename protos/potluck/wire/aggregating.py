"""The recipe's table [aggregation]: how updates become the next version, and whether that can work at all."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self, final

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationInfo, model_validator

from potluck.aggregation import AGGREGATORS, Pipeline, Update
from potluck.aggregation.errors import BadSetting, BadUpdate, UnknownName
from potluck.aggregation.lowrank import Floats
from potluck.aggregation.pipeline import Stages
from potluck.aggregation.rules.base import Coordinatewise, Trains
from potluck.aggregation.weights.ballot import Ballot, Facts
from potluck.aggregation.weights.registry import DEFAULT_DEFENCE
from potluck.wire.settings import Line, Settings

OFFERED: Final = MappingProxyType({"offered": True})
"""Context of a recipe that a coordinator offers: how it combines is its affair, and may be newer than this program."""
LARGEST: Final = 64
"""Updates up to which rounds of every size are tried; of larger ones the cohort itself is."""
HUGE: Final = 1000
"""Updates of the largest round that is tried."""
LATENT: Final = 4


def theirs(info: ValidationInfo) -> bool:
    """Whether what is validated was offered by a coordinator, and not written by whoever runs this program."""
    return info.context is OFFERED


@final
class Aggregation(Settings):
    """The table [aggregation]: how updates become the next version."""

    model_config = ConfigDict(extra="allow")  # what a newer coordinator offers; see _names_are_known

    rule: str = "mean"
    """How updates are combined, a key of potluck.aggregation.AGGREGATORS."""
    weights: tuple[str, ...] = ("examples", "staleness", "cap", *DEFAULT_DEFENCE)
    """What an update weighs, keys of potluck.aggregation.WEIGHTS: factors of single updates, then steps, in order."""
    hostile: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Share of a round's updates that may be hostile; of n updates the weights withstand so many, rounded down."""
    outer: str = "fedavg"
    """How the combined change moves the master, a key of potluck.aggregation.OUTER."""
    settings: dict[Line, float] = Field(default_factory=dict)
    """Settings of the rule, the weights and the outer step, such as {eta = 0.7, mu = 0.9}."""
    mode: Literal["asynchronous", "synchronous"] = "asynchronous"
    """Whether a round closes as soon as enough updates are in, or works with a chosen cohort and a deadline."""
    cohort: Annotated[int, Field(gt=0, le=100_000)] = 8
    """Updates that close a round."""
    minimum: PositiveInt = 2
    """Synchronous: updates that must be in at the deadline, or the round is abandoned."""
    over_selection: Annotated[float, Field(ge=1, le=3)] = 1.3
    """Synchronous: leases granted for each update wanted."""
    deadline_s: PositiveFloat = 3_600.0
    """Synchronous: seconds from a round's first lease to its end."""
    max_staleness: NonNegativeInt = 5
    """Versions that an update's start may lie behind and still count; 0 for rules that want one start of all."""
    master_rank: Annotated[int, Field(ge=0, le=1_024)] = 0
    """Rank of the shared adapter; 0 means four times the volunteers' rank."""

    @model_validator(mode="after")
    def _names_are_known(self, info: ValidationInfo) -> Self:
        for key in [] if theirs(info) else self.model_extra or {}:
            known = type(self).model_fields
            guess = get_close_matches(key, known, n=1)
            raise UnknownName(
                f"no setting is called aggregation.{key}",
                fix=f"did you mean {guess[0]!r}?" if guess else f"settings here are {', '.join(known)}",
            )
        return self

    @property
    def trains(self) -> Trains:
        """Which factors the rule wants trained; both, where this program is too old to know the rule.

        A client that is wrong about it is told so by the manifest's digest in its lease.
        """
        return AGGREGATORS[self.rule]().trains if self.rule in AGGREGATORS else "both"

    def hostile_of(self, updates: int) -> int:
        """Return f: how many of so many *updates* may be hostile."""
        return math.floor(round(self.hostile * updates, 9))  # 0.29 · 100 is a hair below 29 in binary

    def pipeline(self, rank: int, updates: int) -> Pipeline:
        """Return what a round of so many *updates* goes through, up to a master of *rank* columns."""
        return Pipeline(
            rule=self.rule,
            weights=self.weights,
            outer=self.outer,
            rank=rank,
            f=self.hostile_of(updates),
            settings=dict(self.settings),
            screened=True,
        )

    def check(self, most_examples: int) -> None:
        """Try rounds of every size that may close, of honest updates and with hostile claims of examples.

        Raises:
            BadSetting: a round of that size would be refused, or one client could make it so; with the numbers.
        """
        if "fltrust" in self.weights:
            raise BadSetting(
                "aggregation.weights has 'fltrust', which compares with training on trusted data, and a coordinator "
                "has none",
                fix="use 'cosine', which compares with the others, and host with a probe: --probe PATH",
            )
        synchronous = self.mode == "synchronous"
        if synchronous and self.minimum > self.cohort:
            raise BadSetting(
                f"aggregation.minimum is {self.minimum} and cohort is {self.cohort}",
                fix="set minimum to at most cohort",
            )
        least, most = self.minimum if synchronous else self.cohort, min(self.cohort, LARGEST)
        for n in sorted({*range(min(least, LARGEST), most + 1), min(self.cohort, HUGE)}):
            f = self.hostile_of(n)
            self._try([1] * n, ",")
            self._try([most_examples] * f + [1] * (n - f), f" and state {most_examples} examples each,")

    def _try(self, examples: Sequence[int], more: str) -> None:
        """Take made-up updates through the weights and, where that looks at coordinates, the rule."""
        n = len(examples)
        pipeline = self.pipeline(1, n)
        try:
            dry_run(pipeline.stages(), examples, pipeline.f)
        except BadUpdate as error:
            fix = "; ".join(note.removeprefix("fix: ") for note in getattr(error, "__notes__", []))
            raise BadSetting(
                f"a round of {n} updates, of which {pipeline.f} may be hostile{more} would be refused: {error}",
                fix=f"{fix}; aggregation.cohort is {self.cohort} and hostile is {self.hostile}",
            ) from None


def dry_run(stages: Stages, examples: Sequence[int], f: int) -> None:
    """Take made-up updates that state so many *examples* through the weight steps, and through a rule that picks.

    Raises:
        BadUpdate: a step or the rule refuses so many updates, with so many hostile ones or with these weights.
    """
    n = len(examples)
    moved, ones = made_up(n), np.ones(n, dtype=np.int64)
    claims = [Update({}, {}, examples=count) for count in examples]
    raw = np.array([math.prod(factor(claim) for factor in stages.factors) for claim in claims])
    facts = Facts(np.array(examples, dtype=np.int64), ones, 0 * ones, f=f)
    ballot = Ballot(facts, np.eye(n), raw / raw.sum(), moved @ moved.T)
    for step in stages.steps:
        ballot = step.cast(ballot)
    if isinstance(stages.rule, Coordinatewise):
        stages.rule.pick(np.sort((ballot.mix[ballot.weights != 0] @ moved).T, axis=1), f)


def made_up(n: int) -> Floats:
    """Return n innovations (n, n + 4) that agree in part, always the same, no two alike in direction or in length."""
    result: Floats = np.random.Generator(np.random.PCG64(0)).normal(size=(n, n + LATENT)) + 1.0
    return result
