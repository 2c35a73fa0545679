from potluck.wire.v1 import envelope_pb2 as _envelope_pb2
from potluck.wire.v1 import work_pb2 as _work_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MeetVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEET_VERDICT_UNSPECIFIED: _ClassVar[MeetVerdict]
    MEET_VERDICT_WAIT: _ClassVar[MeetVerdict]
    MEET_VERDICT_PARK: _ClassVar[MeetVerdict]
    MEET_VERDICT_BEGIN: _ClassVar[MeetVerdict]
    MEET_VERDICT_ANSWERED: _ClassVar[MeetVerdict]

class SumStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUM_STAGE_UNSPECIFIED: _ClassVar[SumStage]
    SUM_STAGE_ADVERTISE: _ClassVar[SumStage]
    SUM_STAGE_SHARE: _ClassVar[SumStage]
    SUM_STAGE_MASK: _ClassVar[SumStage]
    SUM_STAGE_AGREE: _ClassVar[SumStage]
    SUM_STAGE_UNMASK: _ClassVar[SumStage]
MEET_VERDICT_UNSPECIFIED: MeetVerdict
MEET_VERDICT_WAIT: MeetVerdict
MEET_VERDICT_PARK: MeetVerdict
MEET_VERDICT_BEGIN: MeetVerdict
MEET_VERDICT_ANSWERED: MeetVerdict
SUM_STAGE_UNSPECIFIED: SumStage
SUM_STAGE_ADVERTISE: SumStage
SUM_STAGE_SHARE: SumStage
SUM_STAGE_MASK: SumStage
SUM_STAGE_AGREE: SumStage
SUM_STAGE_UNMASK: SumStage

class MeetRequest(_message.Message):
    __slots__ = ("lease_id", "digest", "spent")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    digest: bytes
    spent: _work_pb2.Spent
    def __init__(self, lease_id: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., spent: _Optional[_Union[_work_pb2.Spent, _Mapping]] = ...) -> None: ...

class MeetReply(_message.Message):
    __slots__ = ("verdict", "again_in_s", "present", "wanted", "human", "opening", "certificate", "receipt")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    AGAIN_IN_S_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    HUMAN_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    verdict: MeetVerdict
    again_in_s: float
    present: int
    wanted: int
    human: str
    opening: bytes
    certificate: bytes
    receipt: _envelope_pb2.Envelope
    def __init__(self, verdict: _Optional[_Union[MeetVerdict, str]] = ..., again_in_s: _Optional[float] = ..., present: _Optional[int] = ..., wanted: _Optional[int] = ..., human: _Optional[str] = ..., opening: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., receipt: _Optional[_Union[_envelope_pb2.Envelope, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("lease_id", "sid", "stage", "message")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    SID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    lease_id: bytes
    sid: bytes
    stage: SumStage
    message: bytes
    def __init__(self, lease_id: _Optional[bytes] = ..., sid: _Optional[bytes] = ..., stage: _Optional[_Union[SumStage, str]] = ..., message: _Optional[bytes] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("upload_id", "committed_size")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_SIZE_FIELD_NUMBER: _ClassVar[int]
    upload_id: bytes
    committed_size: int
    def __init__(self, upload_id: _Optional[bytes] = ..., committed_size: _Optional[int] = ...) -> None: ...

class StepReply(_message.Message):
    __slots__ = ("wait_s", "message", "ticket", "closing", "receipt")
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    wait_s: float
    message: bytes
    ticket: Ticket
    closing: bytes
    receipt: _envelope_pb2.Envelope
    def __init__(self, wait_s: _Optional[float] = ..., message: _Optional[bytes] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., closing: _Optional[bytes] = ..., receipt: _Optional[_Union[_envelope_pb2.Envelope, _Mapping]] = ...) -> None: ...
