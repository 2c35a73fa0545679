"""What a round made of every update, as the log tells it: who counted how much, who was weighted down, and why.

Only numbers, digests and short ids: nothing of anybody's text, and of an update nothing but its length.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from potluck.aggregation import Report
from potluck.coordinator.store.records import Input

SHORT: Final = 8
"""Characters of a client's id that name it in the log; the whole id is in `potluck history`."""


def told(report: Report, rows: Sequence[Input], clients: Mapping[bytes, str]) -> dict[str, Any]:
    """Return *report* as JSON takes it; *rows* are the round's inputs in their order, *clients* are known by lease."""
    names = [clients.get(row.lease_id, "")[:SHORT] for row in rows]
    inputs = [
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
    return {
        "inputs": inputs,
        "findings": [],
        "truncation_error": report.total.relative_error,
        "products": report.products,
        "products_error": report.products_error,
        "sum_error": report.sum_error,
    }
