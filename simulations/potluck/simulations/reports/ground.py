"""Whether runs can be compared at all, and what else differs between them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from potluck.aggregation.errors import PotluckError
from potluck.simulations.reports.runs import Run

FEWEST: Final = 2
CLOSE: Final = 1e-3
"""Relative difference between two measurements of the same loss, from other threads or batches."""
PROSE: Final = frozenset({"recipe.run.purpose", "recipe.data.consent", "scenario.about"})
"""Settings that change nothing."""
_SAME: Final = "compare runs of one base model and the same clients; a scenario's seed and --clients fix who they are"


class NotComparable(PotluckError):
    """Runs whose losses are not of the same model on the same text."""


def check_comparable(names: Sequence[str], runs: Sequence[Run]) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        NotComparable: there are fewer than two, or two are of another base, other text, or measured other clients.
    """
    if len(runs) < FEWEST:
        raise NotComparable(f"{len(runs)} run is given", fix="name two or more: potluck compare RUN RUN")
    first = runs[0]
    for name, run in zip(names[1:], runs[1:], strict=True):
        for difference in _differences(first, run):
            raise NotComparable(f"{names[0]} and {name} cannot be compared: {difference}", fix=_SAME)


def _differences(one: Run, other: Run) -> Iterator[str]:
    """Yield why a loss of *one* is not a loss of *other*."""
    a, b = one.recipe.model, other.recipe.model
    if (a.digest or a.base) != (b.digest or b.base):
        yield f"their base models are {a.base!r} and {b.base!r}, of digests {a.digest[:12]}… and {b.digest[:12]}…"
    for field in ("format", "max_tokens", "held_out"):
        mine, theirs = getattr(one.recipe.data, field), getattr(other.recipe.data, field)
        if mine != theirs:
            yield f"data.{field} is {mine} and {theirs}, so they are measured on other text"
    texts = [{row.client: row.bytes_of_text for row in run.clients} for run in (one, other)]
    if texts[0] != texts[1]:
        same = len(texts[0].items() & texts[1].items())
        yield f"they have {len(texts[0])} and {len(texts[1])} clients, of whom {same} are the same with the same text"
    losses = [
        {row.client: row.loss_base for row in run.clients if row.loss_base == row.loss_base} for run in (one, other)
    ]
    if losses[0].keys() != losses[1].keys():
        yield f"{len(losses[0])} and {len(losses[1])} clients were measured, and not the same ones"
    else:
        yield from _other_text(*losses)


def _other_text(one: Mapping[str, float], other: Mapping[str, float]) -> Iterator[str]:
    apart = [client for client, loss in one.items() if abs(loss - other[client]) > CLOSE * abs(loss)]
    if apart:
        told = f"{one[apart[0]]:.4f} and {other[apart[0]]:.4f}"
        yield f"the base's own loss differs for {len(apart)} clients, for {apart[0]} {told}: they hold other text"


def what_differs(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """Return every setting in which *runs* differ, by its dotted name, with each run's value; prose aside."""
    flat = [_flat("recipe", run.recipe.model_dump(mode="json")) | _flat("scenario", run.scenario) for run in runs]
    keys = sorted({key for each in flat for key in each} - PROSE)
    rows = [(key, tuple(each.get(key, "") for each in flat)) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(before: str, value: object) -> dict[str, str]:
    """Return every value of nested tables, and of tables in lists, by its dotted name, as text."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inner = list(enumerate(value, 1))
    else:
        return {before: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    return {key: text for name, each in inner for key, text in _flat(f"{before}.{name}", each).items()}
