"""The secrets of one client in one sum, and their end."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from potluck.aggregation.secure.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, dealt


def system_bytes(count: int) -> bytes:
    """Return random bytes from the operating system."""
    return secrets.token_bytes(count)


@final
@dataclass(slots=True, repr=False)
class Secrets:
    """Keys and seed of one sum, in memory that can be overwritten; never on disk, never in a log.

    Python and the libraries below it make copies that cannot be reached; what can be overwritten is.
    """

    channel: bytearray
    """X25519: opens the shares that others deal."""
    mask: bytearray
    """X25519: every pair's mask comes from it."""
    seed: bytearray
    """Of the own mask."""
    of_masks: dict[int, bytearray] = field(default_factory=dict)
    """By position: the shares of others' mask keys."""
    of_seeds: dict[int, bytearray] = field(default_factory=dict)
    """By position: the shares of others' seeds."""

    def destroy(self) -> None:
        """Overwrite everything with zeros."""
        for secret in (self.channel, self.mask, self.seed, *self.of_masks.values(), *self.of_seeds.values()):
            secret[:] = bytes(len(secret))
        self.of_masks.clear()
        self.of_seeds.clear()


def drawn(random: Callable[[int], bytes]) -> Secrets:
    """Return new secrets for one sum."""
    channel, mask, seed = (bytearray(random(SECRET_BYTES)) for _ in range(3))
    return Secrets(channel, mask, seed)


def deal(secret: bytearray, threshold: int, clients: int, random: Callable[[int], bytes]) -> list[bytes]:
    """Return the share of *secret* for every position from 1 to *clients*, 33 bytes each."""
    coefficients = [_below_prime(random) for _ in range(threshold - 1)]
    shares = dealt(bytes(secret), coefficients, range(1, clients + 1))
    return [share.to_bytes(SHARE_BYTES, "big") for share in shares.values()]


def _below_prime(random: Callable[[int], bytes]) -> int:
    """Return a number below p, every one as likely: 33 bytes cut to 257 bits, drawn again where they are not below."""
    while True:
        number = int.from_bytes(random(SHARE_BYTES), "big") & ((1 << 257) - 1)
        if number < PRIME:
            return number
