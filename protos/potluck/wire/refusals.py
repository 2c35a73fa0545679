"""Every refusal that crosses the wire, in one table: its code, its gRPC status, and whether trying again can help."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, final

import grpc
from google.protobuf.message import DecodeError

from potluck.aggregation.errors import BadTensor, PotluckError
from potluck.wire.envelopes import BadSignature
from potluck.wire.invites import BadInvite
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.v1.envelope_pb2 import ErrorDetail

METADATA_KEY: Final = "potluck-error-bin"
_DOC: Final = "docs/protocol.md#refusals"
_MAX_TEXT: Final = 1_500  # metadata is capped; a hostile name must not push the code out


class Kind(NamedTuple):
    """What a code means to gRPC, and to a program that may try again."""

    status: grpc.StatusCode
    retryable: bool


_S = grpc.StatusCode
CODES: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "bad_request": Kind(_S.INVALID_ARGUMENT, retryable=False),
        "bad_signature": Kind(_S.UNAUTHENTICATED, retryable=False),
        "bad_invite": Kind(_S.INVALID_ARGUMENT, retryable=False),
        "invite_expired": Kind(_S.PERMISSION_DENIED, retryable=False),
        "invite_spent": Kind(_S.PERMISSION_DENIED, retryable=False),
        "invite_revoked": Kind(_S.PERMISSION_DENIED, retryable=False),
        "invite_foreign": Kind(_S.PERMISSION_DENIED, retryable=False),
        "not_a_member": Kind(_S.PERMISSION_DENIED, retryable=False),
        "run_full": Kind(_S.PERMISSION_DENIED, retryable=False),
        "wrong_consent": Kind(_S.FAILED_PRECONDITION, retryable=False),
        "upgrade_required": Kind(_S.FAILED_PRECONDITION, retryable=False),
        "cloned_identity": Kind(_S.PERMISSION_DENIED, retryable=False),
        "unknown_lease": Kind(_S.NOT_FOUND, retryable=False),
        "unknown_upload": Kind(_S.NOT_FOUND, retryable=False),
        "no_blob": Kind(_S.NOT_FOUND, retryable=False),
        "wrong_offset": Kind(_S.OUT_OF_RANGE, retryable=True),
        "wrong_chunk": Kind(_S.DATA_LOSS, retryable=True),
        "wrong_digest": Kind(_S.DATA_LOSS, retryable=True),
        "too_large": Kind(_S.INVALID_ARGUMENT, retryable=False),
        "conflict": Kind(_S.ALREADY_EXISTS, retryable=False),
        "bad_tensor": Kind(_S.INVALID_ARGUMENT, retryable=False),
        "wrong_manifest": Kind(_S.INVALID_ARGUMENT, retryable=False),
        "sums_only": Kind(_S.FAILED_PRECONDITION, retryable=False),
        "no_sum": Kind(_S.NOT_FOUND, retryable=False),
        "disk_full": Kind(_S.RESOURCE_EXHAUSTED, retryable=True),
        "overloaded": Kind(_S.RESOURCE_EXHAUSTED, retryable=True),
        "unavailable": Kind(_S.UNAVAILABLE, retryable=True),
        "internal": Kind(_S.INTERNAL, retryable=True),
        **{f"sum_{reason.name.lower()}": Kind(_S.FAILED_PRECONDITION, retryable=False) for reason in Reason},
    }
)


@final
class Refusal(PotluckError):
    """The peer said no.  *code* is a key of CODES; one from a newer peer may be unknown, and is not tried again."""

    def __init__(self, message: str, *, code: str = "internal", fix: str = "", retry_in_s: float | None = None) -> None:
        super().__init__(message, fix=fix)
        self.code = code
        self.fix = fix
        self.retryable = code in CODES and CODES[code].retryable
        self.retry_in_s = retry_in_s


def detail(error: PotluckError) -> ErrorDetail:
    """Return *error* as it travels; its code comes from its type where it is not a Refusal."""
    code = error.code if isinstance(error, Refusal) else _code_of(error)
    notes = [note.removeprefix("fix: ") for note in getattr(error, "__notes__", [])]
    fix = "; ".join(notes) or "update potluck and try again; if it stays, tell the operator"
    return ErrorDetail(
        code=code,
        retryable=CODES[code].retryable,
        human=str(error)[:_MAX_TEXT],
        fix=fix[:_MAX_TEXT],
        doc=_DOC,
    )


def refuse(context: grpc.ServicerContext, error: PotluckError) -> NoReturn:
    """End the call with *error*: its status, and its detail as trailing metadata."""
    found = detail(error)
    metadata: list[tuple[str, str | bytes]] = [(METADATA_KEY, found.SerializeToString())]
    if isinstance(error, Refusal) and error.retry_in_s is not None:
        metadata.append(("grpc-retry-pushback-ms", str(round(error.retry_in_s * 1_000))))
    context.set_trailing_metadata(tuple(metadata))
    context.abort(CODES[found.code].status, found.human)
    raise error  # abort raised already; this tells the type checker


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Return what a failed call means to a client: the peer's own words, or the network's."""
    told_of = error.trailing_metadata() if isinstance(error, grpc.Call) else None
    found: dict[str, str | bytes] = dict(told_of or ())
    pushback = found.get("grpc-retry-pushback-ms")
    wait_s = int(pushback) / 1_000 if isinstance(pushback, str) and pushback.isascii() and pushback.isdigit() else None
    data = found.get(METADATA_KEY)
    if isinstance(data, bytes):
        try:
            told = ErrorDetail.FromString(data)
        except DecodeError:
            return Refusal("the coordinator's answer cannot be read", code="internal", fix="update potluck")
        return Refusal(told.human, code=told.code, fix=told.fix, retry_in_s=wait_s)
    status = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    words = (error.details() or "") if isinstance(error, grpc.Call) else str(error)
    code = "overloaded" if status is grpc.StatusCode.RESOURCE_EXHAUSTED else "unavailable"
    return Refusal(
        f"the call failed: {status.name.lower().replace('_', ' ')}: {words[:300]}",
        code=code,
        fix="check the network and that the coordinator is up; it is tried again by itself",
        retry_in_s=wait_s,
    )


def _code_of(error: PotluckError) -> str:
    """Return the code of an error that is not a Refusal by itself."""
    if isinstance(error, SumRefusal):
        return f"sum_{error.reason.name.lower()}"
    kinds: Mapping[type[PotluckError], str] = {
        BadSignature: "bad_signature",
        BadInvite: "bad_invite",
        BadTensor: "bad_tensor",
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), "bad_request")
