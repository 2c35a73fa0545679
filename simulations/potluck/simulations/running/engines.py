"""The engines that a run can have, by name; torch is loaded when one is made."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from potluck.aggregation.errors import BadSetting
from potluck.client.lessons import Engine
from potluck.wire.recipe import Recipe

TOKENS: Final = 2_048
"""A group of clients has about so many tokens a step: larger batches are not faster."""
LEAST: Final = 8
AUTO: Final = "auto"
NATIVE: Final = "native"
NARROW: Final = 256
"""A base of at most this width trains faster in float32 than in bfloat16: at 128 twice as fast, at 576 no more."""


@final
@dataclass(frozen=True, slots=True)
class Hands:
    """What an engine is made from; can be sent to another process."""

    engine: str
    cache: Path
    threads: int = 1
    dtype: str = "native"
    """native, bfloat16, float32 or float64."""
    at_once: int | None = None
    """Clients in one batch; None: as many as fit into this machine."""


def _batched(hands: Hands) -> Engine:
    from potluck.client.training.together.batched import BatchedEngine  # noqa: PLC0415 - torch takes seconds

    return BatchedEngine(hands.cache, threads=hands.threads, at_once=hands.at_once, dtype=hands.dtype)


def _sequential(hands: Hands) -> Engine:
    from potluck.client.training.together.sequential import SequentialEngine  # noqa: PLC0415 - torch takes seconds

    return SequentialEngine(hands.cache, threads=hands.threads, dtype=hands.dtype)


ENGINES: Final[Mapping[str, Callable[[Hands], Engine]]] = MappingProxyType(
    {"batched": _batched, "sequential": _sequential}
)


def engine_of(hands: Hands) -> Engine:
    """Return a new engine.

    Raises:
        BadSetting: there is none of that name.
    """
    if hands.engine not in ENGINES:
        raise BadSetting(f"no engine is called {hands.engine!r}", fix=f"choose one of {', '.join(ENGINES)}")
    return ENGINES[hands.engine](hands)


def numbers_of(dtype: str, engine: str, recipe: Recipe) -> str:
    """Return *dtype*, or what is fastest where it is AUTO: float32 for batches of a small base, else NATIVE.

    One client after the other is what a volunteer's program does, in the numbers that it does it in.
    """
    if dtype != AUTO:
        return dtype
    width = min(k for _, k in recipe.modules().values())
    return "float32" if engine == "batched" and width <= NARROW else NATIVE


def group_size(recipe: Recipe) -> int:
    """Return how many clients an engine is handed at once unless one says it."""
    return max(LEAST, TOKENS // (recipe.training.batch * recipe.data.max_tokens))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_out(workers: int | None, threads: int, available: int) -> int:
    """Return the number of workers with so many *threads* each: all that *available* cores can feed, or those asked.

    Raises:
        BadSetting: they would be more than the cores.
    """
    most = available // threads
    if most < 1 or (workers or 1) > most:
        raise BadSetting(
            f"{workers or 1} workers with {threads} threads each, and {available} cores",
            fix=f"workers times threads is at most {available}",
        )
    return workers or most
