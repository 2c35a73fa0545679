"""Invites: one line of text that lets a client in and tells it whom to trust."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from potluck.aggregation.errors import PotluckError
from potluck.wire.envelopes import BadSignature, Purpose, opened, peer_id, sign
from potluck.wire.v1.enrollment_pb2 import Invite
from potluck.wire.v1.envelope_pb2 import Envelope

PREFIX: Final = "potluck1."
LAYOUT: Final = 1
MAX_CHARACTERS: Final = 8_192
MAX_ADDRESSES: Final = 4
ID_BYTES: Final = 16
_FIX: Final = "copy the whole line again, from 'potluck1.' to its end, or ask for a new invite"


class BadInvite(PotluckError):
    """An invite that is not one: damaged, cut off, or made by something else."""


@final
@dataclass(frozen=True, slots=True)
class Invitation:
    """An invite, read and verified against the key that it pins."""

    token: str
    run_id: str
    run_name: str
    addresses: tuple[str, ...]
    ca_der: bytes
    invite_id: bytes
    expires_unix_s: int
    max_uses: int
    coordinator_key: bytes

    @property
    def coordinator_id(self) -> str:
        """The name that the pinned key gives the coordinator."""
        return peer_id(self.coordinator_key)

    @property
    def server_name(self) -> str:
        """The name in the coordinator's TLS certificate, whatever address it has."""
        return f"{self.coordinator_id}.potluck.internal"


def write(key: Ed25519PrivateKey, invite: Invite) -> str:
    """Return *invite*, signed by the coordinator's *key*, as one line of text."""
    envelope = sign(key, Purpose.INVITE, "", invite)
    return _text(envelope.SerializeToString())


def read(token: str) -> Invitation:
    """Read a token that a person pasted; spaces and line breaks in it do not matter.

    The signature proves only that the invite is whole and who made it.  Whether it is still good, its coordinator says.

    Raises:
        BadInvite: it is too long, cut off, altered, or no invite at all.
    """
    text = "".join(token.split())
    if not text.startswith(PREFIX):
        raise BadInvite(f"an invite begins with {PREFIX!r}, this begins with {text[:12]!r}", fix=_FIX)
    if len(text) > MAX_CHARACTERS:
        raise BadInvite(f"an invite has at most {MAX_CHARACTERS} characters, this has {len(text)}", fix=_FIX)
    body = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        envelope = Envelope.FromString(data)
        invite = opened(envelope, Purpose.INVITE, "", Invite)
    except (binascii.Error, DecodeError, ValueError, BadSignature):
        raise BadInvite("the invite is damaged: it is cut off, or a character of it changed", fix=_FIX) from None
    if invite.version != LAYOUT:
        raise BadInvite(f"the invite has layout {invite.version}, this program knows {LAYOUT}", fix="update potluck")
    if not 0 < len(invite.addresses) <= MAX_ADDRESSES or len(invite.invite_id) != ID_BYTES or not invite.ca_der:
        raise BadInvite("the invite lacks an address, its id or its certificate authority", fix=_FIX)
    return Invitation(
        token=_text(data),  # one spelling, whichever of several was pasted
        run_id=invite.run_id,
        run_name=invite.run_name,
        addresses=tuple(invite.addresses),
        ca_der=invite.ca_der,
        invite_id=invite.invite_id,
        expires_unix_s=invite.expires_unix_s,
        max_uses=invite.max_uses,
        coordinator_key=envelope.signer,
    )


def _text(data: bytes) -> str:
    """Return the serialised envelope as a token."""
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")
