"""Where a round starts: what the coordinator publishes, and what a client trains and freezes of it.

The published factors are float32, so a client's start is a slice of them and element-wise IEEE operations: the same
bits on every machine.  The coordinator can therefore redo any client's start and subtract it exactly.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import LowRank, compress, zero
from potluck.aggregation.pipeline import named
from potluck.aggregation.updates import first_bad_value

Singles: TypeAlias = NDArray[np.float32]
Adapter: TypeAlias = Mapping[str, LowRank]

DRAW_BITS: Final = 24
"""Bits of a random draw: as many as a float32 holds, so the draw is exact."""
SINGLE_NOISE: Final = 2.0**-22
"""Four times the rounding of a float32: what is published of smaller singular values is noise."""


class Start(NamedTuple):
    """A client's start: trainable + tail is the published adapter, so no start adds noise to the model."""

    trainable: dict[str, LowRank]
    """Float32 factors of exactly the client's rank, and the client's scale."""
    tail: dict[str, LowRank]
    """The rest, frozen beside it: float32, scale 1, of rank 0 if there is none."""


class Init(Protocol):
    """How a start is cut from the published adapter."""

    def published(self, master: LowRank) -> LowRank:
        """Return *master* in the form in which this init wants it sent, at scale 1."""

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        """Return (trainable, tail); *fresh* is (r, k), random rows for columns that start at zero."""


@final
@dataclass(frozen=True, slots=True)
class Continue:
    """B₀ = U_r·√Σ_r / √s and A₀ = √Σ_r·V_rᵀ / √s: training goes on where the master is, in balanced factors."""

    def published(self, master: LowRank) -> LowRank:
        return balanced(master)

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        root = np.float32(math.sqrt(scale))
        return leading(published, fresh, scale, by=(root, root))


@final
@dataclass(frozen=True, slots=True)
class Orthonormal:
    """B₀ = U_r·Σ_r / s and A₀ = V_rᵀ: rows of A have length one, so a gradient of B is bounded by the layer's own.

    Source: the initial factors of FedSVD, 2025, arXiv:2505.12805.
    """

    def published(self, master: LowRank) -> LowRank:
        half = balanced(master)
        sigma_root = np.linalg.norm(half.a, axis=1)
        return LowRank(half.b * sigma_root, half.a / sigma_root[:, None])

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        return leading(published, fresh, scale, by=(np.float32(scale), np.float32(1)))


@final
@dataclass(frozen=True, slots=True)
class Half:
    """The top ⌊r/2⌋ columns as in Continue; for the others B₀ = 0 and A₀ is random: one half goes on, one explores.

    An odd rank has one fresh column more, and a rank of 1 is all fresh.
    """

    def published(self, master: LowRank) -> LowRank:
        return balanced(master)

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        root = np.float32(math.sqrt(scale))
        return leading(published, fresh, scale, by=(root, root), most=len(fresh) // 2)


@final
@dataclass(frozen=True, slots=True)
class Fresh:
    """B₀ = 0 and A₀ random: the whole master is frozen.  Wants many local steps, some 50 or more.

    Source: Wang et al. 2024 (FLoRA, re-initialised factors each round), arXiv:2409.05976.
    """

    def published(self, master: LowRank) -> LowRank:
        return balanced(master)

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        b = np.zeros((published.shape[0], len(fresh)), np.float32)
        return LowRank(b, fresh, scale), published


@final
@dataclass(frozen=True, slots=True)
class Keep:
    """B₀ = B / s and A₀ = A of the master as it stands: for rules that train one factor and keep the other one.

    Such a master is (Σ …)·A with the clients' own A, which stays the same to the last bit from version to version: an
    update that comes late is in the same basis, and so are the moments of an outer step.  A decomposition would turn A
    within its row space every time.
    """

    def published(self, master: LowRank) -> LowRank:
        return LowRank(master.b * master.scale, master.a)

    def cut(self, published: LowRank, fresh: Singles, scale: float) -> tuple[LowRank, LowRank]:
        return leading(published, fresh, scale, by=(np.float32(scale), np.float32(1)))


INITS: Final[Mapping[str, Callable[[], Init]]] = MappingProxyType(
    {"continue": Continue, "orthonormal": Orthonormal, "half": Half, "fresh": Fresh, "keep": Keep}
)


def scaling(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """Return s = α/r, or α/√r for rank-stabilised LoRA: the factor between B·A and what is added to the weight.

    Source: Hu et al. 2021, §4.1, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732.

    Raises:
        BadSetting: rank below 1, or alpha not positive and finite.
    """
    if rank < 1 or not 0 < alpha < math.inf:
        raise BadSetting(f"alpha is {alpha} and rank is {rank}", fix="alpha is positive and rank is at least 1")
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def broadcast(master: Adapter, init: str) -> dict[str, LowRank]:
    """Return *master* as the float32 factors to publish for *init*, at scale 1.

    U·√Σ and √Σ·Vᵀ for continue, half and fresh, U·Σ and Vᵀ for orthonormal, in the order of descending σ and without
    columns whose σ is below SINGLE_NOISE·σ₁; for keep the master's own factors.  Only the coordinator calls this, once
    per version: the decomposition may differ in the last bits between machines, its published result may not.

    Raises:
        UnknownName: no such init.
        BadTensor: a value is not finite, or overflows float32.
    """
    policy: Init = named("init", init, INITS)()
    result = {}
    for name in sorted(master):
        with np.errstate(over="ignore"):
            sent = singles(policy.published(master[name]))
        if bad := first_bad_value(sent):
            raise BadTensor(f"{name} {bad} overflows float32", fix="go back to the version before")
        result[name] = sent
    return result


def start(
    published: Adapter, shapes: Mapping[str, tuple[int, int]], *, init: str, rank: int, scale: float, seed: int
) -> Start:
    """Return a client's start from what the coordinator published, per module of *shapes* (d, k).

    A module that was not published is zero.  Columns that *init* leaves open have B = 0 and rows of A uniform in
    ±1/√k, drawn from (seed, module): the same on every machine and in every process.

    Raises:
        UnknownName: no such init.
        BadSetting: rank below 1, or scale not positive and finite.
        BadTensor: a published module is not in *shapes*, has another shape, or is not float32 of scale 1.
    """
    policy: Init = named("init", init, INITS)()
    if rank < 1 or not 0 < scale < math.inf:
        raise BadSetting(f"rank is {rank} and scale is {scale}", fix="rank is at least 1 and scale is positive")
    if extra := sorted(set(published) - set(shapes)):
        raise BadTensor(f"{len(extra)} published modules are not in the model, such as {extra[0]}")
    result = Start({}, {})
    for name, shape in shapes.items():
        term = published.get(name, singles(zero(shape)))
        if term.shape != shape or term.scale != 1 or not term.b.dtype == term.a.dtype == np.float32:
            raise BadTensor(
                f"{name} was published as {term.shape}, {term.b.dtype}, scale {term.scale}; {shape} float32 is needed",
                fix="check that the base model is the recipe's",
            )
        result.trainable[name], result.tail[name] = policy.cut(term, draws(seed, name, (rank, shape[1])), scale)
    return result


def leading(
    published: LowRank, fresh: Singles, scale: float, *, by: tuple[np.float32, np.float32], most: int | None = None
) -> tuple[LowRank, LowRank]:
    """Return the first r columns, at *most* so many, divided *by* (for b, for a), and the rest.

    Columns that are missing of r are zero in b and *fresh* in a.
    """
    rank = len(fresh)
    filled = min(rank if most is None else most, published.rank)
    b = np.zeros((published.shape[0], rank), np.float32)
    a = fresh.copy()
    b[:, :filled] = published.b[:, :filled] / by[0]
    a[:filled] = published.a[:filled] / by[1]
    tail = LowRank(published.b[:, filled:].copy(), published.a[filled:].copy())
    return LowRank(b, a, scale), tail


def draws(seed: int, name: str, shape: tuple[int, int]) -> Singles:
    """Return (r, k) float32 values, uniform in [−1/√k, 1/√k), from *seed* and *name* alone.

    Raw 64-bit words of PCG64, whose stream NumPy promises to keep; their top 24 bits as a whole number, which a
    float32 holds exactly; one multiplication.  Nothing in it can round differently elsewhere.
    """
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    words = np.random.PCG64(int.from_bytes(key, "big")).random_raw(shape[0] * shape[1])
    whole = (words >> np.uint64(64 - DRAW_BITS)).astype(np.int64) - (1 << (DRAW_BITS - 1))
    bound = np.float32(1 / math.sqrt(max(1, shape[1])))
    values: Singles = whole.astype(np.float32).reshape(shape) * (bound * np.float32(2.0 ** (1 - DRAW_BITS)))
    return values


def balanced(master: LowRank) -> LowRank:
    """Return *master* as U·√Σ and √Σ·Vᵀ, descending, without the columns that float32 cannot tell from rounding.

    Clients that train one factor against a public one leave them: the float32 factor that they were sent does not
    quite span what the float64 one spans.
    """
    whole = compress([master]).low_rank
    sigma = np.linalg.norm(whole.a, axis=1) ** 2
    keep = int(np.count_nonzero(sigma > SINGLE_NOISE * sigma[:1]))
    return LowRank(whole.b[:, :keep], whole.a[:keep])


def singles(term: LowRank) -> LowRank:
    """Return *term* with float32 factors."""
    return LowRank(term.b.astype(np.float32), term.a.astype(np.float32), term.scale)
