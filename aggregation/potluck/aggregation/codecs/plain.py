"""Values as they are: float64, float32, half precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from potluck.aggregation.codecs.base import Part, Stored
from potluck.aggregation.lowrank import Array


@final
@dataclass(frozen=True, slots=True)
class Fp64:
    """Float64 as it is, for the coordinator's own checkpoints.  The only one that is read as float64."""

    takes: ClassVar[str] = "<f8"
    shows: ClassVar[bool] = True
    forgets: ClassVar[bool] = False

    def parts(self, values: int) -> tuple[Part, ...]:
        return (Part("", "<f8", values),)

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        return (flat,)

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        return stored[0].astype(np.float64)


@final
@dataclass(frozen=True, slots=True)
class Fp32:
    """Float32: what published adapters use, and what any other safetensors reader opens."""

    takes: ClassVar[str] = "<f4"
    shows: ClassVar[bool] = True
    forgets: ClassVar[bool] = False

    def parts(self, values: int) -> tuple[Part, ...]:
        return (Part("", "<f4", values),)

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        return (flat,)

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        return stored[0].astype(np.float32)


@final
@dataclass(frozen=True, slots=True)
class Fp16:
    """IEEE half, rounded to nearest even; values over 65504 are refused, not clipped."""

    takes: ClassVar[str] = "<f2"
    shows: ClassVar[bool] = True
    forgets: ClassVar[bool] = False

    def parts(self, values: int) -> tuple[Part, ...]:
        return (Part("", "<f2", values),)

    def pack(self, flat: Array) -> tuple[Stored, ...]:
        return (flat,)

    def unpack(self, stored: Sequence[Stored], values: int) -> Array:
        return stored[0].astype(np.float32)
