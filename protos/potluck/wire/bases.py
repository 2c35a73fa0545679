"""The recipe's table [model]: which base model everybody has, and which of its matrices get an adapter."""

import re
from typing import Annotated, final

from pydantic import Field, StringConstraints

from potluck.aggregation.errors import BadSetting
from potluck.wire.settings import Line, Settings

HexDigest = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.{}]{1,200}$")]
Sides = tuple[Annotated[int, Field(gt=0, le=1 << 20)], Annotated[int, Field(gt=0, le=1 << 20)]]
MAX_MODULES = 10_000
_RANGE = re.compile(r"\{(\d{1,4})\.\.(\d{1,4})\}")


@final
class Model(Settings):
    """The table [model]: which base model everybody has."""

    base: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    """A Hugging Face id, a local folder, or "package:NAME" for a model that a Python package carries."""
    revision: Line = "main"
    """Revision of a Hugging Face id."""
    digest: HexDigest = ""
    """SHA-256 over the base model's files; empty in a file that a person writes: the host fills it in."""
    licence: Line = ""
    """Licence of the base model; empty in a file that a person writes: the host fills it in where it is known."""
    modules: dict[Pattern, Sides] = Field(default_factory=dict)
    """Weight matrices that get an adapter, with their (rows, columns); the host fills it in from the base model."""

    def expanded(self) -> dict[str, tuple[int, int]]:
        """Return every module by its full name, sorted; "{0..29}" in a name stands for a range of numbers.

        Raises:
            BadSetting: more than 10,000 modules, or a range that runs backwards.
        """
        found: dict[str, tuple[int, int]] = {}
        count = 0
        for pattern, sides in self.modules.items():
            ranges = _RANGE.findall(pattern)
            if len(ranges) > 1:
                raise BadSetting(f"model.modules: {pattern!r} has {len(ranges)} ranges", fix="use one range in a name")
            low, high = map(int, ranges[0]) if ranges else (0, 0)
            if high < low:
                raise BadSetting(f"model.modules: {pattern!r} runs backwards", fix="write the smaller number first")
            count += high - low + 1
            if count > MAX_MODULES:  # counted before any is made: a peer wrote this
                raise BadSetting(f"model.modules names {count} modules or more", fix="name at most 10,000")
            found |= {_RANGE.sub(str(n), pattern): sides for n in range(low, high + 1)}
        return dict(sorted(found.items()))
