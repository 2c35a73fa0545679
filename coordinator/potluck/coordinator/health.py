"""The gRPC health service, so that probes and load balancers need to know nothing of us.

grpc.health.v1 by hand: its two messages have one field each, and its package would pin our protobuf.
"""

from collections.abc import Callable
from typing import Final

import grpc

SERVICES: Final = frozenset(
    {"", "potluck.wire.v1.Enrollment", "potluck.wire.v1.Work", "potluck.wire.v1.Blobs", "grpc.health.v1.Health"}
)
SERVING: Final = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}."""
NOT_SERVING: Final = b"\x08\x02"
_NAME_FIELD: Final = 0x0A
"""HealthCheckRequest.service: field 1, a string; its length follows in one byte, as all our names are short."""


def health_service(serving: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """Return the service; it says SERVING while *serving* does."""

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        if _service(request) not in SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return SERVING if serving() else NOT_SERVING

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )


def _service(request: bytes) -> str | None:
    """Return the name that is asked about; None if the request is not one of ours."""
    if not request:
        return ""
    if request[0] != _NAME_FIELD or len(request) < 2 or request[1] != len(request) - 2:  # noqa: PLR2004 - tag and length
        return None
    return request[2:].decode("ascii", "replace")
