"""What a rule is: frozen settings that open a fold per module; a fold is fed one part at a time.

To add a rule: a class, a line in AGGREGATORS, a case in tests/vectors, a row in docs/mathematics.md.  A fold never
holds what grows with the number of updates, so that a round of any size fits in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias, final, runtime_checkable

from potluck.aggregation.lowrank import Array, Floats, LowRank
from potluck.aggregation.room import Room

Trains: TypeAlias = Literal["both", "b", "a", "alternately", "core"]
"""Which factor clients train against a frozen, public other one; "alternately" is b for even versions, a for odd.

"core" is an r × r matrix between two public factors."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One module of a round, as a fold needs to know it before it sees a part."""

    name: str
    shape: tuple[int, int]
    """(d, k)."""
    master: LowRank
    """The master's module before the round; of rank 0 before the first."""
    rounds: int = 0
    """Rounds that the master has behind it."""
    ranks: tuple[int, ...] = ()
    """Rank that each update trained, in the order of the parts.  Empty where the rule does not foresee."""
    weights: tuple[float, ...] = ()
    """Weight of each update, in the order of the parts.  Empty where the rule does not foresee."""
    count: int = 0
    """How many updates there are; 0 where that is not known."""
    exact: bool = True
    """Whether sums of products are exact; over a large cohort they are sketched instead."""
    rank: int = 0
    """Columns that the new master may have; what a sketch must resolve."""
    seed: int = 0
    """Of the public random maps of a sketch; drawn from the inputs, so that none of them could know it."""
    room: Room = field(default_factory=Room, repr=False)
    """What sketched sums gather in."""
    errors: list[float] = field(default_factory=list)
    """Frobenius norms of what sketched sums missed, as they measured it; sums write them here."""


class Part(NamedTuple):
    """One update's part in one module."""

    weight: float
    """Its coefficient in the weighted sum; divided by the round's total only when a fold is closed."""
    trained: LowRank
    start: LowRank
    """What it was trained from; of rank 0 where it began at zero."""


class Fold(Protocol):
    """The running sum of one module."""

    def add(self, part: Part) -> None:
        """Take one part in.  Raises BadUpdate if the rule cannot combine it with those before."""

    def combined(self, total: float) -> Sequence[LowRank]:
        """Return the combined innovation as terms whose sum it is, every weight divided by *total*."""


class Rule(Protocol):
    """An aggregation rule that folds."""

    trains: ClassVar[Trains]
    foresees: ClassVar[bool]
    """Whether its folds need the ranks and weights of all parts before the first."""
    any_start: ClassVar[bool]
    """Whether updates may start from different factors: other versions, ranks, scales.  If not, that is refused."""

    def fold(self, module: Module) -> Fold:
        """Return an empty fold for *module*."""


@runtime_checkable
class Coordinatewise(Protocol):
    """A rule that looks at every coordinate by itself, which has a meaning in a basis that all updates share only.

    That is the case where all train one factor against the same, public other factor: then the coordinates are the
    entries of the trained factor.  Updates whose frozen factor differs are refused.
    """

    trains: ClassVar[Trains]
    needs: ClassVar[str]
    """A weight stage that selects before this rule looks at coordinates, or "" if it takes all updates."""

    def pick(self, ordered: Array, f: int) -> Floats:
        """Return (p,), one value for each row of *ordered* (p, n), whose rows ascend; f of the n are hostile.

        Raises:
            BadUpdate: n and f do not fit the rule; the message has the numbers.
        """


AnyRule: TypeAlias = Rule | Coordinatewise
