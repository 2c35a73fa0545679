"""A secret in n shares, any t of which give it back and any t − 1 of which say nothing about it.

Over the field of p = 2²⁵⁶ + 297, a prime: every 32 bytes are an element, and no secret is turned away.
Plain Python numbers: not in constant time.  Each secret is of one sum, and gone after it.

Source: Shamir 1979, doi 10.1145/359168.359176.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from math import comb
from typing import Final, final

from potluck.aggregation.errors import BadSetting, BadUpdate

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
_TRIES: Final = 3_000


def dealt(secret: bytes, coefficients: Sequence[int], places: Sequence[int], prime: int = PRIME) -> dict[int, int]:
    """Return the share at each of *places*: s + c₁x + … + c_{t−1}x^{t−1} mod p.

    *coefficients* are t − 1 numbers below p, drawn by a generator for secrets; the threshold is one more.

    Raises:
        BadSetting: a place that is 0 modulo p, where the secret itself would be given away, or a number out of range.
    """
    value = int.from_bytes(secret, "big")
    if value >= prime or any(not 0 <= c < prime for c in coefficients) or any(not 0 < x < prime for x in places):
        raise BadSetting("a secret, a coefficient or a place that is not in the field", fix="draw them below p")
    shares = {}
    for place in places:
        total = 0
        for coefficient in reversed((value, *coefficients)):
            total = (total * place + coefficient) % prime
        shares[place] = total
    return shares


def weights_at(places: Sequence[int], target: int = 0, prime: int = PRIME) -> list[int]:
    """Return Lagrange's λ, so that f(target) = Σ λᵢ·f(xᵢ) for every f of degree below len(places).

    Raises:
        BadSetting: a place stands twice.
    """
    if len({place % prime for place in places}) != len(places):
        raise BadSetting("two shares have one place", fix="give each client a place of its own")
    weights = []
    for own in places:
        above, below = 1, 1
        for other in places:
            if other != own:
                above = above * (target - other) % prime
                below = below * (own - other) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return weights


def combined(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """Return f(0) of the polynomial through all *shares*, by place."""
    places = list(shares)
    return sum(w * shares[x] for w, x in zip(weights_at(places, prime=prime), places, strict=True)) % prime


@final
@dataclass(frozen=True, slots=True)
class Recovered:
    """A secret, and whose shares did not lie on its polynomial."""

    secret: bytes
    odd: tuple[int, ...]
    """Places, rising."""


@final
@dataclass(frozen=True, slots=True)
class Decoder:
    """Takes secrets from shares that the same clients hold: what depends on their places alone is worked out once."""

    places: tuple[int, ...]
    """Where shares are known, rising."""
    threshold: int
    _weights: dict[tuple[tuple[int, ...], int], list[int]] = field(default_factory=dict, repr=False)

    def recovered(self, shares: Mapping[int, int], fits: Callable[[bytes], bool]) -> Recovered:
        """Return the secret that *fits* and all places whose shares are wrong.

        First the first t shares are tried.  Then the polynomial that most shares lie on is worked out, which finds up
        to (m − t)/2 wrong ones of m.  Then one, two, … shares are left out, up to 3,000 times: *fits* knows the secret
        when it is there, so a few more wrong ones are found than could be told apart without it.

        Raises:
            BadUpdate: fewer than t shares, or no secret that fits was found.
        """
        if len(self.places) < self.threshold:
            raise BadUpdate(f"{len(self.places)} shares of a secret that takes {self.threshold}")
        for number, chosen in enumerate(self._choices(shares)):
            value = self._at(chosen, 0, shares, keep=number == 0)
            if value >> (8 * SECRET_BYTES) == 0 and fits(secret := value.to_bytes(SECRET_BYTES, "big")):
                rest = (x for x in self.places if x not in chosen)
                return Recovered(
                    secret, tuple(x for x in rest if self._at(chosen, x, shares, keep=number == 0) != shares[x])
                )
        raise BadUpdate(f"{len(self.places)} shares with a threshold of {self.threshold} do not fit together")

    def finds_despite(self, wrong: int) -> bool:
        """Return whether every secret that was dealt as it should be is found, whichever *wrong* shares are not right.

        Where it is, a secret that is not found was not dealt as it should be, or more shares than that are wrong.
        """
        spare = len(self.places) - self.threshold
        tries = sum(comb(len(self.places), size) for size in range(1, wrong + 1))
        return 2 * wrong <= spare or (wrong <= spare and tries <= _TRIES)

    def _choices(self, shares: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
        """Yield sets of t places that may all be right, the likeliest first."""
        yield self.places[: self.threshold]
        if (agreeing := agreeing_places(shares, self.threshold)) is not None:
            yield tuple(agreeing[: self.threshold])
        spare = len(self.places) - self.threshold
        left_out = (gone for size in range(1, spare + 1) for gone in combinations(self.places, size))
        for gone in islice(left_out, _TRIES):
            yield tuple(place for place in self.places if place not in gone)[: self.threshold]

    def _at(self, chosen: tuple[int, ...], target: int, shares: Mapping[int, int], *, keep: bool) -> int:
        """Return the value at *target* of the polynomial through the shares at *chosen*."""
        weights = self._weights.get((chosen, target)) or weights_at(chosen, target)
        if keep:
            self._weights[chosen, target] = weights
        return sum(w * shares[x] for w, x in zip(weights, chosen, strict=True)) % PRIME


def agreeing_places(shares: Mapping[int, int], threshold: int, prime: int = PRIME) -> list[int] | None:
    """Return the places of all shares on one polynomial of degree below t, if at most (m − t)/2 are not; else None.

    The interpolant of all m shares and ∏(x − xᵢ) are divided as Euclid does until the remainder g has degree below
    (m + t)/2; then g/v, with v the factor of the interpolant, is the polynomial, and v is zero where shares are wrong.

    Source: Gao 2003, "A new algorithm for decoding Reed–Solomon codes", doi 10.1007/978-1-4757-3789-9_5.
    """
    places = sorted(shares)
    product = [1]
    for place in places:
        product = _times(product, [-place % prime, 1], prime)
    upper, lower = product, _interpolant(shares, places, product, prime)
    v_upper, v_lower = [0], [1]
    while 2 * (len(lower) - 1) >= len(places) + threshold:
        quotient, rest = _divided(upper, lower, prime)
        upper, lower = lower, rest
        v_upper, v_lower = v_lower, _minus(v_upper, _times(quotient, v_lower, prime), prime)
    found, rest = _divided(lower, v_lower, prime)
    if any(rest) or len(found) > threshold:
        return None
    return [place for place in places if _value(found, place, prime) == shares[place]]


def _interpolant(shares: Mapping[int, int], places: list[int], product: list[int], prime: int) -> list[int]:
    """Return the polynomial through all shares, lowest power first."""
    total = [0] * len(places)
    for place in places:
        others, _ = _divided(product, [-place % prime, 1], prime)
        scale = shares[place] * pow(_value(others, place, prime), -1, prime) % prime
        total = [(a + scale * b) % prime for a, b in zip(total, others, strict=True)]
    return _trimmed(total)


def _value(polynomial: list[int], at: int, prime: int) -> int:
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * at + coefficient) % prime
    return total


def _times(left: list[int], right: list[int], prime: int) -> list[int]:
    out = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            out[i + j] = (out[i + j] + a * b) % prime
    return _trimmed(out)


def _minus(left: list[int], right: list[int], prime: int) -> list[int]:
    size = max(len(left), len(right))
    pad = [*left, *[0] * (size - len(left))], [*right, *[0] * (size - len(right))]
    return _trimmed([(a - b) % prime for a, b in zip(*pad, strict=True)])


def _divided(upper: list[int], lower: list[int], prime: int) -> tuple[list[int], list[int]]:
    """Return quotient and remainder."""
    rest, inverse = list(upper), pow(lower[-1], -1, prime)
    quotient = [0] * max(1, len(upper) - len(lower) + 1)
    for shift in range(len(upper) - len(lower), -1, -1):
        factor = rest[shift + len(lower) - 1] * inverse % prime
        quotient[shift] = factor
        for place, coefficient in enumerate(lower):
            rest[shift + place] = (rest[shift + place] - factor * coefficient) % prime
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(polynomial: list[int]) -> list[int]:
    """Return it without leading zeros; zero itself is [0]."""
    while len(polynomial) > 1 and not polynomial[-1]:
        polynomial.pop()
    return polynomial
