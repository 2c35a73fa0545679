"""The outer steps by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.outer.base import AnyOuter
from potluck.aggregation.outer.buffered import FedAsync, FedBuff
from potluck.aggregation.outer.elementwise import FedAdagrad, FedAdam, FedYogi
from potluck.aggregation.outer.linear import FedAvg, FedAvgM, Nesterov

OUTER: Final[Mapping[str, Callable[..., AnyOuter]]] = MappingProxyType(
    {
        "fedadagrad": FedAdagrad,
        "fedadam": FedAdam,
        "fedasync": FedAsync,
        "fedavg": FedAvg,
        "fedavgm": FedAvgM,
        "fedbuff": FedBuff,
        "fedyogi": FedYogi,
        "nesterov": Nesterov,
    }
)
