"""Optional packages: what to say where one is missing."""

import contextlib
from collections.abc import Iterator

from potluck.aggregation.errors import PotluckError


class MissingExtra(PotluckError):
    """An optional package is needed and not installed."""


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing optional package into advice; a missing module of our own stays a bug."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("potluck"):
            raise
        raise MissingExtra(
            f"this command needs {missing.name}, which is not installed", fix=f"pip install 'potluck[{extra}]'"
        ) from None
