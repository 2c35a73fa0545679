"""Factors as whole numbers modulo 2³², so that a sum of masked ones is the sum itself once the masks cancel.

Rules that train one factor against a public one need nothing of single updates but Σ wᵢ·Bᵢ.  Each client rounds its
wᵢ·Bᵢ to multiples of a step that all share, adds a mask modulo 2³², and the masks of all add up to zero.  What the
coordinator decodes is the sum to half a step per client; times the public A it is the round's exact innovation.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.lowrank import Array, Floats

STEP: Final = 2.0**-16
"""The step, in units of the scale that a round broadcasts."""
HALF_RANGE: Final = 2**31
"""Sums from −2³¹ to 2³¹ − 1 steps are told apart."""


def to_whole(values: Array, *, scale: float = 1.0, clients: int) -> NDArray[np.uint32]:
    """Return *values* / (scale·2⁻¹⁶), rounded to nearest even, modulo 2³².

    The sum of n such arrays decodes to the sum of the values within n·scale·2⁻¹⁷.

    Source: the encoding of Bonawitz et al. 2017, §4 (sums over Z_R), doi 10.1145/3133956.3133982.

    Raises:
        BadSetting: fewer than one client, or a scale that is not positive and finite.
        BadTensor: a value is not finite, or so large that a sum over *clients* of them could wrap around.
    """
    if clients < 1 or not 0 < scale < np.inf:
        raise BadSetting(f"{clients} clients and a scale of {scale}", fix="both are positive and finite")
    if not np.isfinite(values).all():
        raise BadTensor("a value to be masked is NaN or infinite", fix="do not send this update")
    steps = np.rint(values.astype(np.float64) / (scale * STEP))
    largest = float(np.abs(steps).max(initial=0.0))
    if largest * clients >= HALF_RANGE:
        raise BadTensor(
            f"{largest:.0f} steps times {clients} clients could pass 2³¹, and the sum would wrap around",
            fix=f"clip to {HALF_RANGE / clients * scale * STEP:.3g}, or broadcast a larger scale",
        )
    whole: NDArray[np.uint32] = steps.astype(np.int64).astype(np.uint32)  # two's complement: modulo 2³²
    return whole


def from_whole(total: NDArray[np.uint32], *, scale: float = 1.0) -> Floats:
    """Return the sum that *total*, a sum modulo 2³² of what to_whole returned, stands for."""
    signed: Floats = total.view(np.int32).astype(np.float64) * (scale * STEP)
    return signed
