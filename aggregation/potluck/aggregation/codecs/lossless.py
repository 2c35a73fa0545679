"""The lossless stage: zstandard frames whose expanded size is known, and checked, before they are expanded.

zstandard computes bytes from bytes; like NumPy it does no I/O, so the core stays pure (docs/decisions/0007).
"""

from typing import Final

import zstandard

from potluck.aggregation.errors import BadTensor

LEVEL: Final = 3
"""Codes carry too little redundancy for higher levels to find more."""


def squeezed(data: bytes) -> bytes:
    """Return *data* as one zstandard frame that states its size."""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)


def expanded(data: bytes, size: int) -> bytes:
    """Return the *size* bytes in the frame *data*, and never allocate more.

    Raises:
        BadTensor: it is no frame, states or holds another size, or bytes follow it.
    """
    try:
        stated = zstandard.get_frame_parameters(data).content_size
        if stated != size:
            raise BadTensor(f"a compressed part says it has {stated} bytes where {size} are needed")
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadTensor(f"a compressed part cannot be expanded: {error}") from None
    if len(plain) != size:
        raise BadTensor(f"a compressed part has {len(plain)} bytes where {size} are needed")
    return plain
