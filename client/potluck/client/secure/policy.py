"""What a client insists on in a sum, whatever the coordinator proposes."""

from dataclasses import dataclass
from typing import Final, final

from potluck.wire.secure.parameters import Terms

SMALLEST: Final = 5
"""Fewer are never summed."""
SMALL: Final = 10
"""Fewer are summed only where the owner allowed small groups."""


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's own terms; nothing here is negotiated."""

    terms: Terms
    """Worked out from the recipe that the owner consented to, and equal to what is proposed, field by field."""
    adapter: bytes
    """SHA-256 of the adapter that the update started from."""
    coordinator_key: bytes
    """Ed25519, 32 bytes: the key in the invite."""
    small_groups: bool = False
    """Whether cohorts of five to nine are allowed."""
    strict: bool = False
    """Refuse, rather than note, a sum that differs by a few clients from one before."""
