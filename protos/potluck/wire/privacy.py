"""The recipe's table [privacy]: what protects a volunteer beside their text staying with them, and whether it can."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, final

from pydantic import Field, PositiveFloat, model_validator

from potluck.aggregation.codecs.registry import make_codec
from potluck.aggregation.errors import BadSetting
from potluck.wire.differential import Differential
from potluck.wire.settings import Settings, idle

if TYPE_CHECKING:  # tables beside this one
    from potluck.wire.aggregating import Aggregation
    from potluck.wire.codecs import Codec

SMALLEST: Final = 5
"""Members of a sum below which it hides too little to be called one."""
USUAL: Final = 10
"""Members of a sum from which on a recipe need not say that its groups are small."""
LARGEST_SUM: Final = 128
"""Members of a sum at the most: everybody shares secrets with everybody."""
SUMMED: Final = ("ffa", "rolora", "fedsvd")
"""Rules that need nothing but the sum of one factor, against a public other one that all have alike."""
EXACT: Final = ("fp32", "fp16")
"""Names of codecs that leave nothing out; a sum travels as numbers of its ring, whichever of them the recipe names."""
TOKEN_ROWS: Final = frozenset({"embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "word_embeddings"})
"""Modules with a row for each token: which rows moved tells which words were there, through any sum."""

_OF_SUMS: Final = (
    *("cohort_minimum", "small_cohorts", "corrupt_share", "ring_bits"),
    *("rendezvous_s", "vector_s", "answer_s", "sum_losses"),
)
_CLIPS: Final = (
    'secure_aggregation = true, or for differential.unit = "user-central"; "example" has privacy.differential.clip'
)

Seconds = Annotated[int, Field(ge=1, le=3_600)]
"""A deadline within a sum."""


@final
class Privacy(Settings):
    """The table [privacy]: protections beyond data staying where they are."""

    secure_aggregation: bool = False
    """Whether the coordinator may see sums only, of at least cohort_minimum updates; see docs/secure-aggregation.md."""
    cohort_minimum: Annotated[int, Field(ge=SMALLEST, le=LARGEST_SUM)] = USUAL
    """Updates that a sum has at least, 5 to 128; with fewer, nothing is revealed."""
    small_cohorts: bool = False
    """Whether cohort_minimum may be below 10: a small sum hides little, so a recipe has to say that it is meant."""
    corrupt_share: Literal["1/3", "1/5"] = "1/3"
    """Share of a sum's members who may work together with the coordinator, and still not read an update."""
    ring_bits: Literal[16, 20, 24, 32] = 24
    """Bits of each number that travels in a sum: more bits, finer steps, a larger upload."""
    clip: PositiveFloat = 1.0
    """Largest norm of an update in a sum, a secure or a noised one, over all its tensors; a larger one is shrunk."""
    rendezvous_s: PositiveFloat = 120.0
    """Seconds that the first to come to a sum waits before it begins without aggregation.cohort members."""
    vector_s: Seconds = 150
    """Seconds that the members of a sum have to upload their masked updates."""
    answer_s: Seconds = 20
    """Seconds that the members of a sum have for each of its small messages."""
    sum_losses: bool = True
    """Whether a sum also adds up the losses that its members measured on their own text, in 64ths of a nat."""
    differential: Differential = Differential()
    """What nobody can tell of one record, or of one volunteer."""

    @model_validator(mode="after")
    def _small_is_said(self) -> Self:
        if self.cohort_minimum < USUAL and not self.small_cohorts:
            raise BadSetting(
                f"privacy.cohort_minimum is {self.cohort_minimum}: a sum of fewer than {USUAL} updates hides little",
                fix=f"set it to at least {USUAL}, or say that it is meant: small_cohorts = true",
            )
        return self

    @model_validator(mode="after")
    def _all_is_used(self) -> Self:
        sums = () if self.secure_aggregation else _OF_SUMS
        clips = self.secure_aggregation or self.differential.by_user
        uses = dict.fromkeys(sums, "secure_aggregation = true") | ({} if clips else {"clip": _CLIPS})
        if found := [*idle(self, "privacy", uses)]:
            raise BadSetting("; ".join(why for why, _ in found), fix="; ".join(fix for _, fix in found))
        return self

    @property
    def gamma(self) -> Fraction:
        """corrupt_share as a number."""
        return Fraction(self.corrupt_share)

    def check(self, aggregation: "Aggregation", codec: "Codec") -> None:
        """Return quietly where rounds of *aggregation* can be summed without anybody seeing a single update.

        Raises:
            BadSetting: they cannot; every reason is named with what to do about it.
        """
        if self.secure_aggregation:
            _refuse([*_rule(aggregation), *_cohort(aggregation, self.cohort_minimum), *_codec(codec)])

    def check_modules(self, targets: Sequence[str]) -> None:
        """Return quietly where a sum over the modules called *targets* gives no words away.

        Raises:
            BadSetting: it would.
        """
        if self.secure_aggregation and (found := sorted(TOKEN_ROWS.intersection(targets))):
            why = f"adapter.targets has {', '.join(found)}: which of its rows moved tells which words were trained on"
            _refuse([(why, "leave it out")])


_NEEDS: Final = MappingProxyType(
    {
        "flora": "stacks every volunteer's factors",
        "flexlora": "sums products, which are of full rank",
        "fedex": "needs the residual of every volunteer's product",
        "hetlora": "weighs updates by their norms",
        "raflora": "weighs every column by who trained it",
        "median": "picks between single updates",
        "trimmed_mean": "leaves out single updates",
        "bulyan": "picks between single updates",
    }
)


def _rule(aggregation: "Aggregation") -> Iterator[tuple[str, str]]:
    """Yield what needs single updates, as (what is wrong, what to do)."""
    if aggregation.rule not in SUMMED:
        why = _NEEDS.get(aggregation.rule, "does not add up one factor against a public other one")
        yield f"aggregation.rule {aggregation.rule!r} {why}", f"use one of {', '.join(map(repr, SUMMED))}"
    if aggregation.weights != ("uniform",):
        yield (
            f"aggregation.weights {list(aggregation.weights)} look at single updates, or at what one claims of itself",
            'set weights = ["uniform"]',
        )
    if aggregation.hostile:
        yield (
            f"aggregation.hostile is {aggregation.hostile}, and nobody can find a hostile update in a sum",
            "set hostile = 0.0; clip bounds what all members do together, a probe refuses what is worse",
        )


def _cohort(aggregation: "Aggregation", least: int) -> Iterator[tuple[str, str]]:
    """Yield what keeps a cohort from meeting."""
    if aggregation.mode != "synchronous":
        yield "aggregation.mode is 'asynchronous', and a sum needs a cohort that meets", 'set mode = "synchronous"'
    if not least <= aggregation.cohort <= LARGEST_SUM:
        yield (
            f"aggregation.cohort is {aggregation.cohort}, and a sum has {least} to {LARGEST_SUM} members",
            "set cohort between these, a few above privacy.cohort_minimum so that some may drop out",
        )


def _codec(codec: "Codec") -> Iterator[tuple[str, str]]:
    """Yield what cannot be added up without being decoded first."""
    if codec.name not in EXACT:
        why = (
            "sends other entries of every update" if make_codec(codec.name).forgets else "scales every update by itself"
        )
        yield (
            f"codec.name is {codec.name!r}, which {why}; a sum adds up whole updates, in steps that all share",
            'set name = "fp16", and privacy.ring_bits to what a number may cost',
        )
    if codec.error_feedback:
        yield "codec.error_feedback keeps what a codec leaves out, and a sum has no codec", "set error_feedback = false"


def _refuse(found: Sequence[tuple[str, str]]) -> None:
    """Raise what was *found*, if anything: all of it at once."""
    if found:
        raise BadSetting(
            f"privacy.secure_aggregation is true, and {'; '.join(why for why, _ in found)}",
            fix="; ".join(fix for _, fix in found),
        )
