"""How long work takes somebody who comes and goes."""

from typing import NamedTuple

from potluck.simulations.worlds.base import NEVER, Availability

GAPS = 10_000
"""Absences during one piece of work, after which it is given up as endless."""


class Spell(NamedTuple):
    """A piece of work: when it is done, and the absences in between."""

    done_s: float
    """NEVER where it is never done."""
    away: tuple[tuple[float, float], ...]


def spell(availability: Availability, person: int, from_s: float, work_s: float) -> Spell:
    """Return when *work_s* seconds of work, which goes on only while *person* is online, are done."""
    now_s, left_s = from_s, work_s
    away: list[tuple[float, float]] = []
    for _ in range(GAPS):
        back_s = availability.next_online_s(person, now_s)
        if back_s > now_s:
            away.append((now_s, back_s))
        if back_s == NEVER:
            return Spell(NEVER, tuple(away))
        until_s = availability.offline_after_s(person, back_s)
        if back_s + left_s <= until_s:
            return Spell(back_s + left_s, tuple(away))
        left_s -= until_s - back_s
        now_s = until_s
    return Spell(NEVER, tuple(away))


def dead(away: tuple[tuple[float, float], ...], lease_s: float) -> list[tuple[float, float]]:
    """Return the spans in which a lease that is renewed while its client is there has run out."""
    return [(gone_s + lease_s, back_s) for gone_s, back_s in away if back_s - gone_s > lease_s]
