from potluck.wire.v1 import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Membership(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMBERSHIP_UNSPECIFIED: _ClassVar[Membership]
    MEMBERSHIP_ACTIVE: _ClassVar[Membership]
    MEMBERSHIP_PENDING: _ClassVar[Membership]
    MEMBERSHIP_LEFT: _ClassVar[Membership]
    MEMBERSHIP_REVOKED: _ClassVar[Membership]
MEMBERSHIP_UNSPECIFIED: Membership
MEMBERSHIP_ACTIVE: Membership
MEMBERSHIP_PENDING: Membership
MEMBERSHIP_LEFT: Membership
MEMBERSHIP_REVOKED: Membership

class Invite(_message.Message):
    __slots__ = ("version", "run_id", "addresses", "ca_der", "invite_id", "expires_unix_s", "max_uses", "run_name")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CA_DER_FIELD_NUMBER: _ClassVar[int]
    INVITE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    version: int
    run_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    ca_der: bytes
    invite_id: bytes
    expires_unix_s: int
    max_uses: int
    run_name: str
    def __init__(self, version: _Optional[int] = ..., run_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., ca_der: _Optional[bytes] = ..., invite_id: _Optional[bytes] = ..., expires_unix_s: _Optional[int] = ..., max_uses: _Optional[int] = ..., run_name: _Optional[str] = ...) -> None: ...

class AboutRequest(_message.Message):
    __slots__ = ("invite", "protocol")
    INVITE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    invite: str
    protocol: _envelope_pb2.Protocol
    def __init__(self, invite: _Optional[str] = ..., protocol: _Optional[_Union[_envelope_pb2.Protocol, _Mapping]] = ...) -> None: ...

class AboutReply(_message.Message):
    __slots__ = ("recipe_json", "recipe_digest", "version", "members", "adapter_bytes", "uses_left", "protocol")
    RECIPE_JSON_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    USES_LEFT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    recipe_json: str
    recipe_digest: bytes
    version: int
    members: int
    adapter_bytes: int
    uses_left: int
    protocol: _envelope_pb2.Protocol
    def __init__(self, recipe_json: _Optional[str] = ..., recipe_digest: _Optional[bytes] = ..., version: _Optional[int] = ..., members: _Optional[int] = ..., adapter_bytes: _Optional[int] = ..., uses_left: _Optional[int] = ..., protocol: _Optional[_Union[_envelope_pb2.Protocol, _Mapping]] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("invite", "name", "recipe_digest", "protocol")
    INVITE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    invite: str
    name: str
    recipe_digest: bytes
    protocol: _envelope_pb2.Protocol
    def __init__(self, invite: _Optional[str] = ..., name: _Optional[str] = ..., recipe_digest: _Optional[bytes] = ..., protocol: _Optional[_Union[_envelope_pb2.Protocol, _Mapping]] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("client_id", "membership")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERSHIP_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    membership: Membership
    def __init__(self, client_id: _Optional[str] = ..., membership: _Optional[_Union[Membership, str]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("counted",)
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    counted: int
    def __init__(self, counted: _Optional[int] = ...) -> None: ...
