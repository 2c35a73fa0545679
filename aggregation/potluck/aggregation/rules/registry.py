"""The rules by name, and those that a gauge changes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.rules.base import AnyRule
from potluck.aggregation.rules.coordinatewise import Bulyan, Median, TrimmedMean
from potluck.aggregation.rules.core import FedSB
from potluck.aggregation.rules.factors import FedIT
from potluck.aggregation.rules.linear import FFA, FedSA, FedSVD, RoLoRA
from potluck.aggregation.rules.mean import Mean
from potluck.aggregation.rules.padded import HetLoRA, RaFLoRA
from potluck.aggregation.rules.products import FedEx, FlexLoRA, FLoRA, FLoRIST
from potluck.aggregation.rules.rotated import FedRot

AGGREGATORS: Final[Mapping[str, Callable[..., AnyRule]]] = MappingProxyType(
    {
        "bulyan": Bulyan,
        "fedex": FedEx,
        "fedit": FedIT,
        "fedrot": FedRot,
        "fedsa": FedSA,
        "fedsb": FedSB,
        "fedsvd": FedSVD,
        "ffa": FFA,
        "flexlora": FlexLoRA,
        "flora": FLoRA,
        "florist": FLoRIST,
        "hetlora": HetLoRA,
        "mean": Mean,
        "median": Median,
        "raflora": RaFLoRA,
        "rolora": RoLoRA,
        "trimmed_mean": TrimmedMean,
    }
)

GAUGE_DEPENDENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bulyan": "picks entries of the trained factor, which are others in another basis",
        "fedit": "averages both factors, and (B, A) and (−B, −A) are one matrix",
        "fedrot": "averages both factors after undoing an orthogonal gauge; no other gauge can be undone",
        "fedsa": "averages A alone, beside a B that it never sees",
        "fedsvd": "sums one factor against the same public other one, which a gauge would change",
        "ffa": "sums one factor against the same public other one, which a gauge would change",
        "hetlora": "averages both factors column by column",
        "median": "picks entries of the trained factor, which are others in another basis",
        "raflora": "weighs every column of the factors by itself, and a gauge mixes columns",
        "rolora": "sums one factor against the same public other one, which a gauge would change",
        "trimmed_mean": "picks entries of the trained factor, which are others in another basis",
    }
)
"""Rules that want all updates in one basis, and why; they refuse any other round.  No gauge changes the rest."""
