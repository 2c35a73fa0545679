"""What rounds made of their updates, for the operator's eyes and for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from potluck.cli.report import say, table
from potluck.coordinator.phases import Phase
from potluck.coordinator.trust import RoundReport


def outcome(report: RoundReport) -> str:
    """Return how a round ended, in a line."""
    if report.phase is Phase.REFUSED:
        return f"{report.round}: refused, version {report.facts['parent']} stays; {report.reason}"
    if report.version is None:
        return f"{report.round}: given up; {report.reason}"
    if report.noised:
        unseen = "secure " if report.summed else ""
        return f"{report.round}: made version {report.version}; a {unseen}sum with noise, divided by {report.noised}"
    if report.summed:
        return f"{report.round}: made version {report.version}; a secure sum of {report.summed} updates"
    down = report.weighted_down
    who = f" ({', '.join(one['client'] for one in down)})" if down else ""
    return f"{report.round}: made version {report.version}; {len(down)} of {report.updates} weighted down{who}"


def doubted(report: RoundReport) -> Iterator[tuple[object, ...]]:
    """Yield a row for every update of a round that was weighted down, or that screening says something about."""
    said: dict[str, list[str]] = {}
    for found in report.findings:
        others = f" (with {', '.join(found['others'])})" if found["others"] else ""
        said.setdefault(found["digest"], []).append(found["told"] + others)
    for one in report.facts.get("inputs", ()):
        notes = said.get(one["digest"], [])
        if notes or one.get("weighted_down"):
            why = [*(reason for reason in one.get("why", ()) if not any(reason in note for note in notes)), *notes]
            yield report.round, one["client"], percent(one.get("share")), f"{one['weight']:.1%}", "; ".join(why)


def show_trust(reports: Sequence[RoundReport]) -> None:
    """Show which rounds made no version, and which updates were not trusted like the others, and why."""
    for report in reports:
        if report.version is None:
            say("round " + outcome(report))
    rows = [row for report in reports for row in doubted(report)]
    if rows:
        say("")
        table(("round", "client", "stated share", "counted", "why"), rows)


def plain(report: RoundReport) -> dict[str, Any]:
    """Return a report as plain values, for programs."""
    kept: Mapping[str, Any] = {name: value for name, value in report.facts.items() if name not in {"kind", "round"}}
    return {"round": report.round, "phase": report.phase.name.lower(), "reason": report.reason, **kept}


def percent(share: float | None) -> str:
    """Return a share for people."""
    return "–" if share is None else f"{share:.1%}"
