"""The weights by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.weights.ballot import Factor, Step
from potluck.aggregation.weights.claims import Cap, FedNova
from potluck.aggregation.weights.clipping import AdaptiveClipping, CenteredClip, NormBound
from potluck.aggregation.weights.directions import Cosine, DivideAndConquer, FoolsGold, TrustBootstrap
from potluck.aggregation.weights.factors import Examples, Staleness, Uniform
from potluck.aggregation.weights.median import GeometricMedian
from potluck.aggregation.weights.mixing import Bucketing, NearestNeighbourMixing
from potluck.aggregation.weights.selection import BulyanSelection, Krum, MinimumDiameter, MultiKrum

WEIGHTS: Final[Mapping[str, Callable[..., Factor | Step]]] = MappingProxyType(
    {
        "uniform": Uniform,
        "examples": Examples,
        "staleness": Staleness,
        "cap": Cap,
        "fednova": FedNova,
        "norm_bound": NormBound,
        "arc": AdaptiveClipping,
        "centered_clip": CenteredClip,
        "nnm": NearestNeighbourMixing,
        "bucketing": Bucketing,
        "krum": Krum,
        "multikrum": MultiKrum,
        "mda": MinimumDiameter,
        "bulyan_selection": BulyanSelection,
        "geomedian": GeometricMedian,
        "dnc": DivideAndConquer,
        "cosine": Cosine,
        "fltrust": TrustBootstrap,
        "foolsgold": FoolsGold,
    }
)

DEFAULT_DEFENCE: Final = ("norm_bound", "nnm", "geomedian")
"""The steps that stand against up to f hostile updates unless a recipe says otherwise.

Clipping to the median norm takes away what scaling buys, whatever follows.  Mixing brings honest clients with different
data together, which is where rules otherwise let attacks hide that stay within the spread (Allouah et al. 2023).
The geometric median withstands just under half of the weight, has no setting that an attacker could aim at, and
uses all honest vectors, where a selection throws some away.  All three need no more than n > 2f.
"""
