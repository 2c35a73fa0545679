"""`potluck limits`: how much of the machine its owner gives away."""

import json
import os
from collections.abc import Sequence

from potluck.aggregation.errors import BadSetting
from potluck.cli.report import say, show
from potluck.client.home import Home
from potluck.client.limits import Limits, limits_at


def show_or_set(changes: Sequence[str], *, as_json: bool) -> None:
    """Show the limits, or change some of them: each of *changes* is "name=value"."""
    path = Home.of_user(os.environ).limits
    limits = limits_at(path)
    if changes:
        values = limits.model_dump(mode="json") | dict(map(_pair, changes))
        limits = Limits.parse(json.dumps(values))
        limits.write(path)
    if as_json:
        show(limits.model_dump(mode="json"), as_json=True)
        return
    show({name: json.dumps(value) for name, value in limits.model_dump(mode="json").items()})
    say("", limits.sentence(os.cpu_count() or 1), f"kept in {path}; a running session reads it again within a second")


def _pair(change: str) -> tuple[str, object]:
    """Return the name and value in "name=value".

    Raises:
        BadSetting: there is no "=", or the value is neither a number nor true or false.
    """
    name, equals, text = change.partition("=")
    try:
        return name.strip().replace("-", "_"), json.loads(text)
    except ValueError:
        told = "has no value" if not equals else f"has the value {text!r}"
        raise BadSetting(
            f"{name.strip()!r} {told}", fix="write NAME=VALUE, such as core_share=0.25 or on_battery=true"
        ) from None
