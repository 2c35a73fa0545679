"""What a round made of every update, as the log tells it: who counted how much, who was weighted down, and why.

Only numbers, digests and short ids: nothing of anybody's text, and of an update nothing but its length and direction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from potluck.aggregation import Report
from potluck.coordinator.phases import Phase
from potluck.coordinator.store.records import Input

SHORT: Final = 8
"""Characters of a client's id that name it in the log; the whole id is in `potluck history`."""


def told(report: Report, rows: Sequence[Input], clients: Mapping[bytes, str]) -> dict[str, Any]:
    """Return *report* as JSON takes it; *rows* are the round's inputs in their order, *clients* are known by lease."""
    names = [clients.get(row.lease_id, "")[:SHORT] for row in rows]
    inputs: list[dict[str, Any]] = [
        {
            "client": name,
            "digest": row.digest,
            "version": row.version,
            "examples": row.examples,
            "steps": row.steps,
            "weight": weight,
            "norm": norm,
        }
        for name, row, weight, norm in zip(names, rows, report.weights, report.norms, strict=True)
    ]
    for verdict in report.verdicts:
        inputs[verdict.place] |= {
            "share": verdict.share,
            "weighted_down": verdict.weighted_down,
            "why": list(verdict.reasons),
        }
    findings = [
        {
            "client": names[found.place],
            "digest": rows[found.place].digest,
            "check": found.check,
            "measured": found.measured,
            "bound": found.bound,
            "told": found.sentence,
            "others": [names[place] for place in found.others],
        }
        for found in report.findings
    ]
    return {
        "inputs": inputs,
        "findings": findings,
        **_whole(report),
    }


def told_of_noised(report: Report, cohort: int) -> dict[str, Any]:
    """Return *report* as JSON takes it where noise hides single updates: nothing of any of them, nor how many came.

    *cohort* is what their sum was divided by, which the recipe says: all else about them that is exact would tell what
    the noise is there to hide.
    """
    return {"inputs": [], "findings": [], "noised": cohort, **_whole(report)}


def _whole(report: Report) -> dict[str, Any]:
    return {
        "truncation_error": report.total.relative_error,
        "products": report.products,
        "products_error": report.products_error,
        "sum_error": report.sum_error,
    }


@final
@dataclass(frozen=True, slots=True)
class RoundReport:
    """A round that has ended, as the log tells it."""

    round: int
    phase: Phase
    version: int | None
    """The version that it made; none where it was refused or given up."""
    reason: str
    """Why it made none."""
    facts: Mapping[str, Any]
    """The log's entry."""

    @classmethod
    def read(cls, number: int, phase: Phase, reason: str, entry: str) -> "RoundReport":
        """Return the report of a round from its *entry*."""
        facts = json.loads(entry)
        return cls(number, phase, facts.get("version"), reason, facts)

    @property
    def updates(self) -> int:
        """How many updates were combined; where their sum was noised, what it was divided by."""
        return self.summed or self.noised or len(self.facts.get("inputs", ()))

    @property
    def noised(self) -> int:
        """What a noised sum was divided by; how many updates it has is told to nobody.  0 where nothing was noised."""
        return int(self.facts.get("noised", 0))

    @property
    def summed(self) -> int:
        """How many updates a secure sum added up unseen; 0 where each was read."""
        return int(self.facts.get("summed", 0))

    @property
    def weighted_down(self) -> tuple[Mapping[str, Any], ...]:
        """The updates that counted less than half of what they stated, beside the others."""
        return tuple(one for one in self.facts.get("inputs", ()) if one.get("weighted_down"))

    @property
    def findings(self) -> tuple[Mapping[str, Any], ...]:
        """What screening found."""
        return tuple(self.facts.get("findings", ()))
