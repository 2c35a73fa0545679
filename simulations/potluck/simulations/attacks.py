"""What hostile clients send when they know every honest update of the round: the strongest case.

Sign flip, IPM, scaling and copied are exact in the products; ALIE, Min-Max, Gaussian and NaN change the entries of the
trained factors.  `hostile` has both forms and what each can and cannot say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, final

import numpy as np

from potluck.aggregation import LowRank, Update, gram
from potluck.simulations.hostile import combination, enough, entrywise, largest_gamma, positive, sent


class Attack(Protocol):
    """Frozen settings, and a pure call."""

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        """Return what *count* hostile clients send beside the *honest* updates.

        Raises:
            BadUpdate: there are too few honest updates, or they do not start from the same factors.
        """


@final
@dataclass(frozen=True, slots=True)
class SignFlip:
    """−μ, with μ the mean of the honest innovations; exact in the products.

    Source: Li, Xu, Chen, Giannakis and Ling 2019 (RSA, "sign-flipping"), arXiv:1811.03761.
    """

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        return [combination(honest, np.full(len(honest), -1 / max(1, len(honest))))] * count


@final
@dataclass(frozen=True, slots=True)
class InnerProduct:
    """−τ·μ: the inner product of the mean of all with μ turns negative if τ > (n − f)/f; exact in the products.

    A small τ hides among the honest, a large one shows.

    Source: Xie, Koyejo and Gupta 2019 (IPM), arXiv:1903.03936.
    """

    tau: float = 2.0

    def __post_init__(self) -> None:
        positive("ipm", "tau", self.tau)

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        return [combination(honest, np.full(len(honest), -self.tau / max(1, len(honest))))] * count


@final
@dataclass(frozen=True, slots=True)
class ALittle:
    """μ + z·σ per entry of the trained factors, σ with n − 1 below the sum: small enough to pass for honest.

    Source: Baruch, Baruch and Goldberg 2019 (ALIE), Algorithm 3, arXiv:1902.06156.
    """

    z: float = 1.5

    def __post_init__(self) -> None:
        positive("alie", "z", self.z)

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        enough("alie", honest, 2)
        return [entrywise(honest, lambda moved: moved.mean(axis=0) + self.z * moved.std(axis=0, ddof=1))] * count


@final
@dataclass(frozen=True, slots=True)
class MinMax:
    """μ − γ·σ, the largest γ that is no farther from any honest update than the two farthest of those are apart.

    μ and σ are per entry, as in ALittle; distances are of the products: the innovation is a polynomial of degree two
    in γ, so that one Gram matrix has the distances for every γ.  γ is found by doubling and bisection.

    Source: Shejwalkar and Houmansadr 2021 (Min-Max, perturbation "inverse standard deviation"), NDSS.
    """

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        enough("min_max", honest, 2)
        gamma = largest_gamma(honest)
        return [entrywise(honest, lambda moved: moved.mean(axis=0) - gamma * moved.std(axis=0, ddof=1))] * count


@final
@dataclass(frozen=True, slots=True)
class Scaling:
    """factor · Δ, each hostile client that of another honest one; exact in the products.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov 2020 (model replacement), equation 3, arXiv:1807.00459.
    """

    factor: float = 100.0

    def __post_init__(self) -> None:
        positive("scaling", "factor", self.factor)

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        enough("scaling", honest, 1)
        weights = self.factor * np.eye(len(honest))
        return [combination(honest, weights[i % len(honest)]) for i in range(count)]


@final
@dataclass(frozen=True, slots=True)
class Gaussian:
    """Every trained entry moved from its start by N(0, std²), each hostile client for itself.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer 2017, §5, arXiv:1703.02757.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        positive("gaussian", "std", self.std)

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        return [entrywise(honest, lambda moved: rng.normal(0.0, self.std, moved.shape[1:])) for _ in range(count)]


@final
@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of the honest update that is farthest from μ in the products: nothing wrong with it but its weight.

    Source: Karimireddy, He and Jaggi 2022 (Mimic), §3.2, arXiv:2006.09365; they choose whom to copy by the direction
    of largest variance over the first rounds.
    """

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        enough("copied", honest, 1)
        products = gram([update.innovation() for update in honest])
        squares = np.diag(products) - 2 * products.mean(axis=1)  # ‖Δᵢ − μ‖² up to ‖μ‖²
        return [honest[int(np.argmax(squares))]] * count


@final
@dataclass(frozen=True, slots=True)
class NotANumber:
    """An honest shape with NaN in every entry."""

    def __call__(self, honest: Sequence[Update], count: int, rng: np.random.Generator) -> list[Update]:
        enough("nan", honest, 1)
        nothing = {
            name: LowRank(np.full_like(term.b, np.nan), np.full_like(term.a, np.nan), term.scale)
            for name, term in honest[0].trained.items()
        }
        return [sent(honest, nothing)] * count


ATTACKS: Final[Mapping[str, Callable[..., Attack]]] = MappingProxyType(
    {
        "sign_flip": SignFlip,
        "ipm": InnerProduct,
        "alie": ALittle,
        "min_max": MinMax,
        "scaling": Scaling,
        "gaussian": Gaussian,
        "copied": Copied,
        "nan": NotANumber,
    }
)
