"""Optional packages: what to say where one is missing."""

import contextlib
import importlib.util
from collections.abc import Iterator

from potluck.aggregation.errors import PotluckError


class MissingExtra(PotluckError):
    """An optional package is needed and not installed."""


def require(extra: str, *names: str) -> None:
    """Refuse where a package of *extra* is not installed, without loading any; some take seconds to load.

    Raises:
        MissingExtra: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise missing(name, extra)


def missing(name: str, extra: str) -> MissingExtra:
    """Return the advice to install *extra*."""
    return MissingExtra(f"this command needs {name}, which is not installed", fix=f"pip install 'potluck[{extra}]'")


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing optional package into advice; a missing module of our own stays a bug."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("potluck"):
            raise
        raise missing(error.name, extra) from None
