"""How many clients must stay for a sum to be revealed, and why no fewer may reveal it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.errors import BadSetting, UnknownName
from potluck.aggregation.secure.ring import MAX_COHORT

CORRUPT: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({"1/3": (1, 3), "1/5": (1, 5)})
"""The share of a cohort that may work for the coordinator, as a fraction: no rounding of floats decides a bound."""


def most_corrupt(clients: int, corrupt: str) -> int:
    """Return c = ⌊γ·n⌋, how many of *clients* may work for the coordinator, or against the others.

    Raises:
        UnknownName: a share that is not 1/3 or 1/5.
    """
    if corrupt not in CORRUPT:
        raise UnknownName(f"a corrupt share of {corrupt!r}", fix=f"use one of {', '.join(CORRUPT)}")
    above, below = CORRUPT[corrupt]
    return clients * above // below


def threshold(clients: int, corrupt: str) -> int:
    """Return t = ⌊(n + c)/2⌋ + 1 with c of most_corrupt.

    Two different lists of survivors cannot both be agreed to by t: together they would take 2t − c > n honest clients'
    signatures, and an honest client signs one.

    Source: Bonawitz et al. 2017, §6.2 and Table of thresholds for an active server, doi 10.1145/3133956.3133982.

    Raises:
        UnknownName: a share that is not 1/3 or 1/5.
        BadSetting: fewer than 2 or more than 128 clients.
    """
    lying = most_corrupt(clients, corrupt)
    if not 2 <= clients <= MAX_COHORT:  # noqa: PLR2004 - a sum of one is no sum
        raise BadSetting(f"a cohort of {clients}", fix=f"from 2 to {MAX_COHORT}")
    return (clients + lying) // 2 + 1


def may_drop(clients: int, corrupt: str) -> int:
    """Return how many of *clients* may drop out of a sum that still succeeds: n − t."""
    return clients - threshold(clients, corrupt)
