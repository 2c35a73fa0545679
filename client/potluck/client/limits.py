"""How much of the machine its owner gives away: read by people, written by `potluck limits`."""

import json
import os
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import Field, NonNegativeFloat

from potluck.wire.settings import Settings

GIB: Final = 1024**3
UNKEEP: Final = "leave them out again with: potluck limits keep_flagged=false"


@final
class Limits(Settings):
    """What the owner allows.  The defaults are those of a good guest."""

    on_battery: bool = False
    """Whether to compute on battery at all; below 30 % charge it stops in any case."""
    core_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the cores that training uses, above 0 and at most 1."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """How far training steps back for other programs, 0 (not at all) to 19."""
    busy_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the cores that other programs may use before training waits; 1 means never wait."""
    min_free_ram_gib: NonNegativeFloat = 0.5
    """GiB of memory that must stay free while training, 0 or more; 0 means do not look."""
    min_free_disk_gib: NonNegativeFloat = 2.0
    """GiB of disk that must stay free, 0 or more; 0 means do not look."""
    keep_flagged: bool = False
    """Whether to train also on samples that look as if they held a secret or personal data."""

    max_epsilon: NonNegativeFloat = 8.0
    """0 or more, such as 8: epsilon that private runs together may tell of one record, at the run's delta."""

    def threads(self, cores: int) -> int:
        """Return how many threads training may use on a machine with *cores* cores; at least one."""
        return max(1, int(cores * self.core_share))

    def sentence(self, cores: int) -> str:
        """Return the limits as one sentence that a volunteer can check."""
        power = "on mains and on battery" if self.on_battery else "on mains only"
        busy = "" if self.busy_share == 1 else f", while other programs use under {self.busy_share:.0%} of the machine"
        return (
            f"I compute {power}{busy}, on {self.threads(cores)} of {cores} cores, at low priority (nice {self.nice}), "
            f"and leave {self.min_free_ram_gib:g} GiB of memory and {self.min_free_disk_gib:g} GiB of disk free. "
            "Change: potluck limits"
        )

    def write(self, path: Path) -> None:
        """Write the limits to *path* as TOML with each setting's help above it; a reader sees the old or the new."""
        lines = ["# What potluck may use of this machine.  Read again within a second of a change."]
        for name, field in type(self).model_fields.items():
            lines += [f"# {field.description}", f"{name} = {json.dumps(getattr(self, name))}"]
        temporary = path.with_name(path.name + ".new")
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - atomic on every system, where rename is not


def limits_at(path: Path) -> Limits:
    """Return the limits in the file at *path*, or the defaults where there is none.

    Raises:
        BadSetting: the file holds a wrong value.
        UnknownName: the file holds a setting that does not exist.
    """
    return Limits.read(path) if path.exists() else Limits()
