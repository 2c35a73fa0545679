"""A personal adapter: one owner's own, over a run's shared one.  It stays here: no code that sends knows of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation import Limits, LowRank, decode, encode, from_tensors, to_tensors
from potluck.aggregation.errors import BadSetting, BadTensor

RANKS: Final = range(2, 9)
GATE: Final = ".gate"
_SIZE: Final = 4  # bytes that say how long the facts are
_MAX_VALUES: Final = 2**28


@final
@dataclass(frozen=True, slots=True)
class Wish:
    """How an owner wants it trained.

    Raises:
        BadSetting: a number is out of its range.
    """

    rank: int = 4
    steps: int = 0
    """0: some PASSES over the text."""
    learning_rate: float = 3e-4
    proximal: float = 0.0
    """µ of the pull to the shared adapter; 0 for none."""
    gated: bool = True
    share_a: bool = False
    """Only B is trained, on the leading rows of the shared adapter's own A."""

    def __post_init__(self) -> None:
        checks = {
            f"rank is {self.rank}; use {RANKS.start} to {RANKS.stop - 1}": self.rank in RANKS,
            f"steps is {self.steps}; use 0 to 100000": 0 <= self.steps <= 100_000,  # noqa: PLR2004
            f"the learning rate is {self.learning_rate:g}; use more than 0, up to 1": 0 < self.learning_rate <= 1,
            f"the pull is {self.proximal:g}; use 0 or more, up to 1000": 0 <= self.proximal <= 1_000,  # noqa: PLR2004
        }
        for wrong, right in checks.items():
            if not right:
                problem, fix = wrong.split("; ", 1)
                raise BadSetting(f"a personal adapter's {problem}", fix=fix)

    @property
    def alpha(self) -> float:
        """LoRA's alpha: the scale is 2 at every rank."""
        return 2.0 * self.rank


@final
@dataclass(frozen=True, slots=True)
class Losses:
    """Nats per token on the owner's held-out text: of the base, with the one, the other, or both adapters on it.

    *exported* is with both, and with the number in place of the gate that other programs are given.
    """

    base: float
    shared: float
    personal: float
    both: float
    exported: float


@final
@dataclass(frozen=True, slots=True)
class About:
    """What a personal adapter is for, and how it came about."""

    run_id: str
    run_name: str
    version: int  # of the shared adapter that it was trained over
    recipe_digest: str
    base_digest: str
    data_path: str
    wish: Wish
    losses: Losses | None = None
    """None until it is trained."""
    before: Losses | None = None
    """Losses over the same shared version before training went on from an earlier one; None for a first one."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Personal:
    """The adapter, with its gates, and the numbers that stand in for them where no gate can be."""

    about: About
    products: Mapping[str, LowRank]
    gates: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)

    def beside(self, shared: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """Return shared + g·personal in every module as one product, exactly: the ranks add up.

        g is the module's constant where it has a gate, and 1 where it has none.

        Raises:
            BadTensor: a module has another shape in the two.
        """
        joined = {}
        for name in sorted({*shared, *self.products}):
            terms = [term for term in (shared.get(name), self._weighed(name)) if term is not None]
            if len({term.shape for term in terms}) > 1:
                raise BadTensor(f"{name} has another shape in the shared adapter", fix="personalize again")
            b = np.concatenate([term.b * term.scale for term in terms], axis=1)
            joined[name] = LowRank(b, np.concatenate([term.a for term in terms]))
        return joined

    def alone(self) -> dict[str, LowRank]:
        """Return g·personal, without the shared adapter."""
        return {name: term for name in self.products if (term := self._weighed(name)) is not None}

    def _weighed(self, name: str) -> LowRank | None:
        """Return g·s·B·A of one module."""
        term = self.products.get(name)
        return None if term is None else term.times(self.constants.get(name, 1.0))

    def to_bytes(self) -> bytes:
        """Return all of it as bytes: facts as JSON, then the numbers in float32."""
        facts = asdict(self.about) | {"scale": self._scale(), "constants": dict(self.constants)}
        told = json.dumps(facts).encode()
        bare = {name: LowRank(term.b, term.a) for name, term in self.products.items()}
        numbers = to_tensors(bare) | {f"{name}{GATE}": gate[None, :] for name, gate in self.gates.items()}
        return len(told).to_bytes(_SIZE, "big") + told + encode(numbers, "fp32")

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Return what to_bytes wrote.

        Raises:
            BadTensor: it was not written by this program.
        """
        end = _SIZE + int.from_bytes(data[:_SIZE], "big")
        try:
            facts = json.loads(data[_SIZE:end])
            scale, constants = float(facts.pop("scale")), facts.pop("constants")
            about = _about(facts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadTensor(
                f"the personal adapter is of another version of this program: {error!r}", fix="personalize again"
            ) from None
        numbers = decode(data[end:], limits=Limits(len(data), max_tensors=2**16, max_values=_MAX_VALUES))
        gates = {name.removesuffix(GATE): numbers.pop(name)[0] for name in list(numbers) if name.endswith(GATE)}
        products = {name: LowRank(term.b, term.a, scale) for name, term in from_tensors(numbers).items()}
        return cls(about, products, gates, {name: float(value) for name, value in constants.items()})

    def _scale(self) -> float:
        return next((term.scale for term in self.products.values()), 1.0)


def _about(facts: dict[str, Any]) -> About:
    """Return the facts as they were."""
    losses, before = (None if one is None else Losses(**one) for one in (facts.pop("losses"), facts.pop("before")))
    return About(**facts | {"wish": Wish(**facts["wish"])}, losses=losses, before=before)
