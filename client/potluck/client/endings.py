"""Why a session ended."""

from dataclasses import dataclass
from enum import Enum
from typing import final


class Ending(Enum):
    """In words for the owner."""

    INTERRUPTED = "you stopped it; it goes on where it was"
    FINISHED = "all work is delivered, as you asked"
    LEFT = "you left the run"
    RUN_DONE = "the run reached its last version: thank you"
    CONSENT_REQUIRED = "the recipe changed; it needs your consent again"
    UPGRADE_REQUIRED = "the coordinator speaks another protocol: update potluck"


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended, and what a person may want to know about it."""

    ending: Ending
    human: str = ""
    recipe_json: str = ""  # of the changed recipe, with CONSENT_REQUIRED
    counted: int = 0  # updates that published adapters keep, with LEFT
