from potluck.wire.v1 import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_LEASED: _ClassVar[TaskState]
    TASK_STATE_FETCHING: _ClassVar[TaskState]
    TASK_STATE_PREPARED: _ClassVar[TaskState]
    TASK_STATE_TRAINING: _ClassVar[TaskState]
    TASK_STATE_SUSPENDED: _ClassVar[TaskState]
    TASK_STATE_SEALING: _ClassVar[TaskState]
    TASK_STATE_OFFERING: _ClassVar[TaskState]
    TASK_STATE_UPLOADING: _ClassVar[TaskState]
    TASK_STATE_COMMITTING: _ClassVar[TaskState]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_ROUND_FULL: _ClassVar[Reason]
    REASON_CONTRIBUTED: _ClassVar[Reason]
    REASON_PENDING: _ClassVar[Reason]
    REASON_PAUSED: _ClassVar[Reason]
    REASON_COMBINING: _ClassVar[Reason]
    REASON_UNWANTED: _ClassVar[Reason]
    REASON_TOO_FEW: _ClassVar[Reason]

class OfferVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OFFER_VERDICT_UNSPECIFIED: _ClassVar[OfferVerdict]
    OFFER_VERDICT_WANTED: _ClassVar[OfferVerdict]
    OFFER_VERDICT_WANTED_LATE: _ClassVar[OfferVerdict]
    OFFER_VERDICT_NOT_WANTED: _ClassVar[OfferVerdict]
    OFFER_VERDICT_HAVE_IT: _ClassVar[OfferVerdict]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_ACCEPTED: _ClassVar[Verdict]
    VERDICT_ALREADY_ACCEPTED: _ClassVar[Verdict]
    VERDICT_TOO_LATE: _ClassVar[Verdict]
    VERDICT_REJECTED: _ClassVar[Verdict]
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_LEASED: TaskState
TASK_STATE_FETCHING: TaskState
TASK_STATE_PREPARED: TaskState
TASK_STATE_TRAINING: TaskState
TASK_STATE_SUSPENDED: TaskState
TASK_STATE_SEALING: TaskState
TASK_STATE_OFFERING: TaskState
TASK_STATE_UPLOADING: TaskState
TASK_STATE_COMMITTING: TaskState
REASON_UNSPECIFIED: Reason
REASON_ROUND_FULL: Reason
REASON_CONTRIBUTED: Reason
REASON_PENDING: Reason
REASON_PAUSED: Reason
REASON_COMBINING: Reason
REASON_UNWANTED: Reason
REASON_TOO_FEW: Reason
OFFER_VERDICT_UNSPECIFIED: OfferVerdict
OFFER_VERDICT_WANTED: OfferVerdict
OFFER_VERDICT_WANTED_LATE: OfferVerdict
OFFER_VERDICT_NOT_WANTED: OfferVerdict
OFFER_VERDICT_HAVE_IT: OfferVerdict
VERDICT_UNSPECIFIED: Verdict
VERDICT_ACCEPTED: Verdict
VERDICT_ALREADY_ACCEPTED: Verdict
VERDICT_TOO_LATE: Verdict
VERDICT_REJECTED: Verdict

class Held(_message.Message):
    __slots__ = ("lease_id", "state")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    state: TaskState
    def __init__(self, lease_id: _Optional[bytes] = ..., state: _Optional[_Union[TaskState, str]] = ...) -> None: ...

class CheckInRequest(_message.Message):
    __slots__ = ("run_id", "boot_id", "seqno", "protocol", "held", "recipe_digest", "examples", "wants_work")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SEQNO_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    WANTS_WORK_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    boot_id: bytes
    seqno: int
    protocol: _envelope_pb2.Protocol
    held: _containers.RepeatedCompositeFieldContainer[Held]
    recipe_digest: bytes
    examples: int
    wants_work: bool
    def __init__(self, run_id: _Optional[str] = ..., boot_id: _Optional[bytes] = ..., seqno: _Optional[int] = ..., protocol: _Optional[_Union[_envelope_pb2.Protocol, _Mapping]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., recipe_digest: _Optional[bytes] = ..., examples: _Optional[int] = ..., wants_work: bool = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("lease_id", "run_id", "round", "version", "adapter", "seed", "recipe_digest", "manifest_digest", "ttl_s", "max_update_bytes")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    MAX_UPDATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    run_id: str
    round: int
    version: int
    adapter: _envelope_pb2.Blob
    seed: int
    recipe_digest: bytes
    manifest_digest: bytes
    ttl_s: float
    max_update_bytes: int
    def __init__(self, lease_id: _Optional[bytes] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., version: _Optional[int] = ..., adapter: _Optional[_Union[_envelope_pb2.Blob, _Mapping]] = ..., seed: _Optional[int] = ..., recipe_digest: _Optional[bytes] = ..., manifest_digest: _Optional[bytes] = ..., ttl_s: _Optional[float] = ..., max_update_bytes: _Optional[int] = ...) -> None: ...

class NoWork(_message.Message):
    __slots__ = ("reason", "human")
    REASON_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    human: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., human: _Optional[str] = ...) -> None: ...

class UpgradeRequired(_message.Message):
    __slots__ = ("protocol", "human")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    protocol: _envelope_pb2.Protocol
    human: str
    def __init__(self, protocol: _Optional[_Union[_envelope_pb2.Protocol, _Mapping]] = ..., human: _Optional[str] = ...) -> None: ...

class ConsentRequired(_message.Message):
    __slots__ = ("recipe_json", "recipe_digest")
    RECIPE_JSON_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    recipe_json: str
    recipe_digest: bytes
    def __init__(self, recipe_json: _Optional[str] = ..., recipe_digest: _Optional[bytes] = ...) -> None: ...

class RunDone(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("lease_id", "human")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    human: str
    def __init__(self, lease_id: _Optional[bytes] = ..., human: _Optional[str] = ...) -> None: ...

class PollWindow(_message.Message):
    __slots__ = ("min_s", "max_s")
    MIN_S_FIELD_NUMBER: _ClassVar[int]
    MAX_S_FIELD_NUMBER: _ClassVar[int]
    min_s: float
    max_s: float
    def __init__(self, min_s: _Optional[float] = ..., max_s: _Optional[float] = ...) -> None: ...

class CheckInReply(_message.Message):
    __slots__ = ("lease", "no_work", "upgrade_required", "consent_required", "run_done", "poll_window", "cancel", "coordinator_time_ms", "version", "adapter", "ledger_lines")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    NO_WORK_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    CONSENT_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    RUN_DONE_FIELD_NUMBER: _ClassVar[int]
    POLL_WINDOW_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    LEDGER_LINES_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    no_work: NoWork
    upgrade_required: UpgradeRequired
    consent_required: ConsentRequired
    run_done: RunDone
    poll_window: PollWindow
    cancel: _containers.RepeatedCompositeFieldContainer[Cancel]
    coordinator_time_ms: int
    version: int
    adapter: _envelope_pb2.Blob
    ledger_lines: int
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., no_work: _Optional[_Union[NoWork, _Mapping]] = ..., upgrade_required: _Optional[_Union[UpgradeRequired, _Mapping]] = ..., consent_required: _Optional[_Union[ConsentRequired, _Mapping]] = ..., run_done: _Optional[_Union[RunDone, _Mapping]] = ..., poll_window: _Optional[_Union[PollWindow, _Mapping]] = ..., cancel: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., coordinator_time_ms: _Optional[int] = ..., version: _Optional[int] = ..., adapter: _Optional[_Union[_envelope_pb2.Blob, _Mapping]] = ..., ledger_lines: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("lease_id", "state", "steps_done", "steps_total")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    state: TaskState
    steps_done: int
    steps_total: int
    def __init__(self, lease_id: _Optional[bytes] = ..., state: _Optional[_Union[TaskState, str]] = ..., steps_done: _Optional[int] = ..., steps_total: _Optional[int] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("proceed", "human", "ttl_s", "next_renew_s")
    PROCEED_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    NEXT_RENEW_S_FIELD_NUMBER: _ClassVar[int]
    proceed: bool
    human: str
    ttl_s: float
    next_renew_s: float
    def __init__(self, proceed: bool = ..., human: _Optional[str] = ..., ttl_s: _Optional[float] = ..., next_renew_s: _Optional[float] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("lease_id", "update", "examples")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    update: _envelope_pb2.Blob
    examples: int
    def __init__(self, lease_id: _Optional[bytes] = ..., update: _Optional[_Union[_envelope_pb2.Blob, _Mapping]] = ..., examples: _Optional[int] = ...) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("verdict", "upload_id", "committed_size", "staleness_weight", "human", "receipt")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_SIZE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    verdict: OfferVerdict
    upload_id: bytes
    committed_size: int
    staleness_weight: float
    human: str
    receipt: _envelope_pb2.Envelope
    def __init__(self, verdict: _Optional[_Union[OfferVerdict, str]] = ..., upload_id: _Optional[bytes] = ..., committed_size: _Optional[int] = ..., staleness_weight: _Optional[float] = ..., human: _Optional[str] = ..., receipt: _Optional[_Union[_envelope_pb2.Envelope, _Mapping]] = ...) -> None: ...

class Spent(_message.Message):
    __slots__ = ("unit", "epsilon", "delta", "lines")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    unit: str
    epsilon: float
    delta: float
    lines: int
    def __init__(self, unit: _Optional[str] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., lines: _Optional[int] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("lease_id", "update", "manifest_digest", "examples", "steps", "tokens", "loss_before", "loss_after", "spent")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LOSS_AFTER_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    update: _envelope_pb2.Blob
    manifest_digest: bytes
    examples: int
    steps: int
    tokens: int
    loss_before: float
    loss_after: float
    spent: Spent
    def __init__(self, lease_id: _Optional[bytes] = ..., update: _Optional[_Union[_envelope_pb2.Blob, _Mapping]] = ..., manifest_digest: _Optional[bytes] = ..., examples: _Optional[int] = ..., steps: _Optional[int] = ..., tokens: _Optional[int] = ..., loss_before: _Optional[float] = ..., loss_after: _Optional[float] = ..., spent: _Optional[_Union[Spent, _Mapping]] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("verdict", "receipt", "rejected")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    receipt: _envelope_pb2.Envelope
    rejected: _envelope_pb2.ErrorDetail
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., receipt: _Optional[_Union[_envelope_pb2.Envelope, _Mapping]] = ..., rejected: _Optional[_Union[_envelope_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("run_id", "client_id", "lease_id", "round", "version", "digest", "verdict", "examples", "staleness_weight", "credit", "serial", "spent")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    client_id: str
    lease_id: bytes
    round: int
    version: int
    digest: bytes
    verdict: Verdict
    examples: int
    staleness_weight: float
    credit: int
    serial: int
    spent: Spent
    def __init__(self, run_id: _Optional[str] = ..., client_id: _Optional[str] = ..., lease_id: _Optional[bytes] = ..., round: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., examples: _Optional[int] = ..., staleness_weight: _Optional[float] = ..., credit: _Optional[int] = ..., serial: _Optional[int] = ..., spent: _Optional[_Union[Spent, _Mapping]] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("lease_id", "reason")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    reason: str
    def __init__(self, lease_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class AbortReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
