"""Classes of machines, with their speed and their line.

Tokens per second are of training a LoRA adapter on SmolLM2-135M.  Measured by us: 125 (fp32) and 278 (bf16) on two busy
server cores.  Estimates from them: two idle cores 240 and 370, eight of them 1,000 (fp32).  Assumptions, for want of
a measurement that we could repeat: a phone 60, half of what the two busy cores give; a consumer's graphics card 5,000,
2.7 · 10¹² of its operations a second at 4 · 135 · 10⁶ for a token with a frozen base.

Lines are medians of all the world in Ookla's Speedtest Global Index: fixed, January 2025, 97.61 Mbit/s down and 52.84
up; mobile, down January 2025, 91.24, and up September 2020, 11.22.  The slow one is the least that the FCC called
broadband from 2015 to 2024, 25 down and 3 up.  A phone that charges is on its owner's fixed line.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from potluck.simulations.worlds.base import Device

BYTES_OF_MBIT: Final = 125_000.0
FIXED_LINE: Final = (52.84 * BYTES_OF_MBIT, 97.61 * BYTES_OF_MBIT)
SLOW_LINE: Final = (3.0 * BYTES_OF_MBIT, 25.0 * BYTES_OF_MBIT)
MOBILE_LINE: Final = (11.22 * BYTES_OF_MBIT, 91.24 * BYTES_OF_MBIT)

DEVICES: Final[Mapping[str, Device]] = MappingProxyType(
    {
        device.name: device
        for device in (
            Device("old-laptop", 125.0, *SLOW_LINE),
            Device("laptop", 240.0, *FIXED_LINE),
            Device("new-laptop", 370.0, *FIXED_LINE),
            Device("desktop", 1_000.0, *FIXED_LINE),
            Device("graphics-card", 5_000.0, *FIXED_LINE),
            Device("phone", 60.0, *FIXED_LINE),
            Device("phone-on-the-move", 60.0, *MOBILE_LINE),
        )
    }
)
