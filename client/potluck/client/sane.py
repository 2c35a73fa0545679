"""Numbers off the wire, made such that nothing here can be hurt by them: a coordinator may be broken, or hostile."""

import math
from typing import Final

from potluck.wire.recipe import Recipe

SHORTEST_S: Final = 0.05
LONGEST_S: Final = 30 * 86_400.0
MAX_INTEGER: Final = (1 << 63) - 1  # what a database column holds
SLACK_BYTES: Final = 1 << 20
FLOAT32_BYTES: Final = 4


def span_s(seconds: float, otherwise_s: float) -> float:
    """Return *seconds*, kept between a twentieth of a second and thirty days; *otherwise_s* where it is no number."""
    return min(LONGEST_S, max(SHORTEST_S, seconds)) if math.isfinite(seconds) else otherwise_s


def integer(number: int) -> int:
    """Return *number*, or the largest that can be kept."""
    return min(number, MAX_INTEGER)


def largest_adapter(recipe: Recipe) -> int:
    """Return how many bytes the run's shared adapter can have: float32 factors at the master's rank, and a header."""
    rank = recipe.master_rank
    return FLOAT32_BYTES * rank * sum(d + k for d, k in recipe.modules().values()) + SLACK_BYTES
