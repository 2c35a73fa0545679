"""What this client speaks, and what it calls itself."""

from importlib.metadata import PackageNotFoundError, version

from potluck.aggregation import CODECS
from potluck.wire.channels import PROTOCOL
from potluck.wire.v1.envelope_pb2 import Protocol


def spoken() -> Protocol:
    """Return the protocol versions and capabilities of this client."""
    return Protocol(
        oldest=PROTOCOL,
        newest=PROTOCOL,
        capabilities=[f"codec:{name}" for name in CODECS],
        software=f"potluck {_version()}",
    )


def _version() -> str:
    try:
        return version("potluck")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
