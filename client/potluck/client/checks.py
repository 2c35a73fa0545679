"""What a preflight says of each thing that it looked at."""

from dataclasses import dataclass
from enum import Enum
from typing import final

from potluck.aggregation.errors import PotluckError
from potluck.client.errors import fix_of


class Verdict(Enum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    message: str
    fix: str = ""


def failed(name: str, error: PotluckError) -> Check:
    """Return *error* as a check."""
    return Check(name, Verdict.ERROR, str(error), fix_of(error))
