"""Patterns of presence: at one's time of day, at random, as a trace has it, or all of these at once."""

import csv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Protocol, final

from potluck.aggregation.errors import BadSetting
from potluck.simulations.worlds.base import NEVER
from potluck.simulations.worlds.chance import exponential, normal, uniform
from potluck.simulations.worlds.errors import Impossible
from potluck.simulations.worlds.tables import Availability, Churn, Diurnal, Trace

HOUR_S: Final = 3_600.0
DAY_S: Final = 24 * HOUR_S
MOST_JITTER: Final = 6 * HOUR_S  # windows of one day and the next then open at least twelve hours apart, in order
SHORTEST: Final = 0.25 * HOUR_S
LONGEST: Final = 23.5 * HOUR_S
HORIZON_S: Final = 366 * DAY_S  # patterns that do not meet within a year never do
BLOCK_MEANS: Final = 4  # changes in a block of time, on average: few blocks are empty, and none is long


class Pattern(Protocol):
    """Says when people are online; see base.Availability for both calls."""

    def next_online_s(self, person: int, at_s: float) -> float:
        """Return the first moment, not before *at_s*, at which *person* is online; NEVER if there is none."""

    def offline_after_s(self, person: int, at_s: float) -> float:
        """Return when *person* next goes offline; *at_s* if it is not online then."""


@final
@dataclass(frozen=True, slots=True)
class Days:
    """Each person opens one window a day, at the same time of its day, more or less."""

    table: Diurnal
    seed: int

    def next_online_s(self, person: int, at_s: float) -> float:
        if self._always(person):
            return at_s
        return next(max(at_s, opens) for opens, closes in self._windows(person, at_s) if closes > at_s)

    def offline_after_s(self, person: int, at_s: float) -> float:
        if self._always(person):
            return NEVER
        end = at_s
        for opens, closes in self._windows(person, at_s):
            if opens > end:
                return end
            end = max(end, closes)
        return end  # never reached: there is always another day

    def _always(self, person: int) -> bool:
        return uniform(self.seed, "always", person) < self.table.always

    def _windows(self, person: int, at_s: float) -> Iterator[tuple[float, float]]:
        """Yield the windows of *person*, in order, from before *at_s*, without end."""
        table = self.table
        opens_h = table.from_h + table.spread_h * normal(self.seed, "from", person)
        first_s = (opens_h - self._zone_h(person) - table.starts_utc_h) * HOUR_S
        for day in count(int((at_s - first_s) // DAY_S) - 2):
            if uniform(self.seed, "day", person, day) < table.days:
                opens = first_s + day * DAY_S + self._jitter_s("opens", person, day)
                length = table.hours * HOUR_S + self._jitter_s("length", person, day)
                yield opens, opens + min(max(length, min(SHORTEST, table.hours * HOUR_S)), LONGEST)

    def _zone_h(self, person: int) -> float:
        drawn = uniform(self.seed, "zone", person)
        for zone in self.table.zones:
            drawn -= zone.share
            if drawn <= 0:
                return zone.utc_h
        return self.table.zones[-1].utc_h if self.table.zones else 0.0

    def _jitter_s(self, what: str, person: int, day: int) -> float:
        drawn = self.table.jitter_h * HOUR_S * normal(self.seed, what, person, day)
        return min(max(drawn, -MOST_JITTER), MOST_JITTER)


@final
@dataclass(frozen=True, slots=True)
class Spells:
    """Exponential times online and offline, in turn: a Markov chain of two states in continuous time.

    It is drawn without being followed from the start: at the events of a Poisson process of rate 1/on + 1/off the state
    is drawn anew, on with probability on / (on + off), which is the same chain; and a Poisson process is independent
    from one block of time to another.

    Source: Jensen 1953 (uniformisation), "Markoff chains as an aid in the study of Markoff processes".
    """

    table: Churn
    seed: int

    def next_online_s(self, person: int, at_s: float) -> float:
        joins, leaves = self._stay(person)
        at_s = max(at_s, joins)
        if not self._online(person, at_s):
            at_s = self._turns(person, at_s, leaves, online=True)
        return at_s if at_s < leaves else NEVER

    def offline_after_s(self, person: int, at_s: float) -> float:
        joins, leaves = self._stay(person)
        if not joins <= at_s < leaves or not self._online(person, at_s):
            return at_s
        return self._turns(person, at_s, leaves, online=False)

    def _stay(self, person: int) -> tuple[float, float]:
        """Return when *person* joins and when it leaves for good."""
        joins = self.table.joins_h * HOUR_S * uniform(self.seed, "joins", person)
        stays = self.table.stays_h * HOUR_S
        return joins, joins + exponential(stays, self.seed, "stays", person) if stays else NEVER

    def _online(self, person: int, at_s: float) -> bool:
        """Whether the last event until *at_s* left *person* online."""
        for block in range(int(at_s // self._block_s), -1, -1):
            before = [online for moment, online in self._events(person, block) if moment <= at_s]
            if before:
                return before[-1]
        return self._draw("first", person)

    def _turns(self, person: int, after_s: float, end_s: float, *, online: bool) -> float:
        """Return the first moment after *after_s* at which *person* is drawn to be *online*; *end_s* at the most."""
        for block in count(int(after_s // self._block_s)):
            for moment, drawn in self._events(person, block):
                if moment > after_s and (drawn is online or moment >= end_s):
                    return min(moment, end_s)
        return end_s  # never reached: there is always another block

    def _events(self, person: int, block: int) -> Iterator[tuple[float, bool]]:
        """Yield (moment, whether online from then on) of one block of time, in order."""
        moment, end = block * self._block_s, (block + 1) * self._block_s
        for number in count():
            moment += exponential(self._block_s / BLOCK_MEANS, self.seed, "gap", person, block, number)
            if moment >= end:
                return
            yield moment, self._draw("state", person, block, number)

    def _draw(self, *what: str | int) -> bool:
        table = self.table
        return uniform(self.seed, *what) * (table.online_h + table.offline_h) < table.online_h

    @property
    def _block_s(self) -> float:
        return BLOCK_MEANS * HOUR_S / (1 / self.table.online_h + 1 / self.table.offline_h)


Spans = tuple[tuple[float, float], ...]


@final
@dataclass(frozen=True, slots=True)
class Traced:
    """Each person does what one of a trace did, drawn by chance; the trace may begin again after *period_s*."""

    spans: tuple[Spans, ...]
    """Of each traced person: (from, to) in seconds, in order, apart."""
    seed: int
    period_s: float = NEVER

    def next_online_s(self, person: int, at_s: float) -> float:
        base, within = self._lap(at_s)
        span = self._at_or_after(person, within)
        if span is not None:
            return max(at_s, base + span[0])
        return NEVER if self.period_s == NEVER else base + self.period_s + self._spans(person)[0][0]

    def offline_after_s(self, person: int, at_s: float) -> float:
        base, within = self._lap(at_s)
        span = self._at_or_after(person, within)
        if span is None or span[0] > within:
            return at_s
        again = self._spans(person)[0]
        if span[1] == self.period_s and again[0] == 0:  # over the seam
            return NEVER if again[1] == self.period_s else base + self.period_s + again[1]
        return base + span[1]

    def _lap(self, at_s: float) -> tuple[float, float]:
        if self.period_s == NEVER:
            return 0.0, at_s
        base = at_s // self.period_s * self.period_s
        return base, at_s - base

    def _spans(self, person: int) -> Spans:
        return self.spans[int(uniform(self.seed, "traced", person) * len(self.spans))]

    def _at_or_after(self, person: int, within_s: float) -> tuple[float, float] | None:
        spans = self._spans(person)
        i = bisect_right(spans, within_s, key=lambda span: span[1])
        return spans[i] if i < len(spans) else None


@final
@dataclass(frozen=True, slots=True)
class Present:
    """Base.Availability: online when all *patterns* say so; the share *dropout* of the leases is given up."""

    patterns: tuple[Pattern, ...]
    dropout: float
    seed: int

    def next_online_s(self, person: int, at_s: float) -> float:
        moment, horizon = at_s, at_s + HORIZON_S
        while moment <= horizon:
            moved = max((pattern.next_online_s(person, moment) for pattern in self.patterns), default=moment)
            if moved == moment:
                return moment
            moment = moved
        return NEVER

    def offline_after_s(self, person: int, at_s: float) -> float:
        return min((pattern.offline_after_s(person, at_s) for pattern in self.patterns), default=NEVER)

    def drops(self, person: int, version: int) -> bool:
        return uniform(self.seed, "drops", person, version) < self.dropout


def present(table: Availability, seed: int) -> Present:
    """Return what *table* says.

    Raises:
        BadSetting: a trace cannot be read.
        Impossible: nobody of a trace is ever online.
    """
    patterns: list[Pattern] = []
    if table.diurnal is not None:
        patterns.append(Days(table.diurnal, seed))
    if table.churn is not None:
        patterns.append(Spells(table.churn, seed))
    if table.trace is not None:
        patterns.append(traced(table.trace, seed))
    return Present(tuple(patterns), table.dropout, seed)


def traced(table: Trace, seed: int) -> Traced:
    """Read a trace: spans that touch or overlap are one.

    Raises:
        BadSetting: the file cannot be read, lacks a column, or has a span that ends before it begins.
        Impossible: nobody in it is ever online.
    """
    period = table.repeats_h * HOUR_S or NEVER
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, (who, opens, closes) in enumerate(_rows(Path(table.path)), start=2):
        if not 0 <= opens < closes <= period:
            raise BadSetting(
                f"{table.path} line {number}: a span from {opens / HOUR_S:g} to {closes / HOUR_S:g} hours",
                fix="spans begin at 0 or later, before they end, and end by repeats_h",
            )
        spans[who].append((opens, closes))
    if not spans:
        raise Impossible(f"nobody in {table.path} is ever online: it has no rows", fix="name a trace with rows")
    return Traced(tuple(_merged(spans[who]) for who in sorted(spans)), seed, period)


def _rows(path: Path) -> Iterator[tuple[str, float, float]]:
    """Yield (person, from, to) of each row, in seconds."""
    try:
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        for row in rows:
            yield row["person"], float(row["from_h"]) * HOUR_S, float(row["to_h"]) * HOUR_S
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}", fix="check the path and its rights") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BadSetting(
            f"{path} is no trace: {error}", fix="it needs the columns person, from_h and to_h, the last two numbers"
        ) from None


def _merged(spans: Sequence[tuple[float, float]]) -> Spans:
    result: list[tuple[float, float]] = []
    for opens, closes in sorted(spans):
        if result and opens <= result[-1][1]:
            result[-1] = (result[-1][0], max(closes, result[-1][1]))
        else:
            result.append((opens, closes))
    return tuple(result)
