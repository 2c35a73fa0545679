"""What rounds of private training cost, worked out by dp-accounting from the events themselves."""

import functools
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from potluck.aggregation.errors import BadSetting
from potluck.client.errors import NoAccountant

STEPS: Final = 1e-4
"""Width of the accountant's grid, in ε.  It rounds up: a coarser one only overstates."""
COARSE: Final = 1e-3  # while σ is looked for, and where there is much to compose
MANY: Final = 8  # kinds of rounds, from which on the fine grid takes longer than a volunteer waits
CLOSE: Final = 1.002  # σ is found to this factor, from above
LARGEST_NOISE: Final = 1e4


@final
@dataclass(frozen=True, slots=True)
class Spending:
    """One round of private training, as the accountant sees it: *steps* noised sums of Poisson-drawn records.

    Neighbours differ in one record that is there or not.
    """

    records: int
    """N: records that could be drawn; public, as accountants have it."""
    batch: int
    """B: records in a step on average; what sums are divided by."""
    noise: float
    """σ: standard deviation of the noise, as a multiple of the clip."""
    steps: int
    cap: int = 0
    """Records in a step at the most; 0: no bound."""

    @property
    def chance(self) -> float:
        """q: with which chance a record is drawn for a step."""
        return min(1.0, self.batch / self.records)


def epsilon(spendings: Sequence[Spending], delta: float) -> float:
    """Return the ε of all *spendings* together at *delta*, from above; 0 of none, infinity where none can be shown.

    Source: privacy loss distributions, Koskela, Jälkö & Honkela 2020, arXiv:1906.03049, in dp-accounting; a capped
    batch: Ganesh 2025, arXiv:2508.15089.

    Raises:
        NoAccountant: dp-accounting is not installed.
        BadSetting: *delta* is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise BadSetting(f"delta is {delta}", fix="use a number between 0 and 1, such as 1e-5")
    if not spendings:  # and no second spent on loading what would count them
        return 0.0
    kinds = len(_merged(spendings))
    return _epsilon(tuple(spendings), delta, STEPS if kinds < MANY else COARSE)


def in_words(epsilon: float, digits: int = 2) -> str:
    """Return *epsilon* with so many digits behind the point, never less than it is; where it is infinite, that."""
    if math.isinf(epsilon):
        return "without bound"
    return f"{math.ceil(epsilon * 10**digits) / 10**digits:.{digits}f}"


def noise_for(budget: float, delta: float, spending: Spending, rounds: int) -> float:
    """Return a σ with which *rounds* rounds like *spending* stay within ε = *budget*; at most 0.2 % above the least.

    Raises:
        NoAccountant: dp-accounting is not installed.
        BadSetting: no σ up to 10,000 would do.
    """
    return _noise_for(budget, delta, spending, rounds)


@functools.lru_cache(maxsize=32)
def _noise_for(budget: float, delta: float, spending: Spending, rounds: int) -> float:
    def fits(noise: float, grid: float) -> bool:
        whole = Spending(spending.records, spending.batch, noise, spending.steps * rounds, spending.cap)
        return _epsilon((whole,), delta, grid) <= budget

    high = 1.0
    while not fits(high, COARSE):
        high *= 2
        if high > LARGEST_NOISE:
            raise BadSetting(f"no noise gives epsilon {budget:g}", fix="allow more epsilon, or fewer participations")
    low = high / 2 if high > 1 else 0.1
    while high / low > CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle, COARSE) else (middle, high)
    while not fits(high, STEPS):
        high *= CLOSE
    return high


def accountant() -> str:
    """Return the name and version of what counts, as the ledger keeps it.

    Raises:
        NoAccountant: it is not installed.
    """
    _library()
    return f"dp-accounting {importlib.metadata.version('dp-accounting')} PLD"


@functools.lru_cache(maxsize=256)
def _epsilon(spendings: tuple[Spending, ...], delta: float, grid: float) -> float:
    accounting, pld = _library()
    counter = pld.PLDAccountant(value_discretization_interval=grid)
    for spending, count in _merged(spendings).items():
        counter.compose(_event(accounting, spending), count)
    return float(counter.get_epsilon(delta))


def _merged(spendings: Sequence[Spending]) -> dict[Spending, int]:
    """Return how many steps there are of every kind: composing equal ones at once is far quicker."""
    steps: dict[Spending, int] = {}
    for one in spendings:
        kind = Spending(one.records, one.batch, one.noise, 1, one.cap)
        steps[kind] = steps.get(kind, 0) + one.steps
    return steps


def _event(accounting: Any, spending: Spending) -> Any:  # noqa: ANN401 - dp-accounting has no types
    if spending.cap and spending.cap < spending.records:
        return accounting.TruncatedSubsampledGaussianDpEvent(
            dataset_size=spending.records,
            sampling_probability=spending.chance,
            truncated_batch_size=spending.cap,
            noise_multiplier=spending.noise,
        )
    return accounting.PoissonSampledDpEvent(spending.chance, accounting.GaussianDpEvent(spending.noise))


def _library() -> tuple[Any, Any]:
    """Return dp-accounting and its accountant of privacy loss distributions; they take a second to import."""
    try:
        import dp_accounting  # noqa: PLC0415
        from dp_accounting import pld  # noqa: PLC0415
    except ImportError:
        raise NoAccountant(
            "this run asks for differential privacy, and the library that counts it is not installed",
            fix='pip install "potluck[client]"',
        ) from None
    return dp_accounting, pld
