"""A signature is good for one purpose, one audience and one payload."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.envelopes import BadSignature, Purpose, checked, opened, peer_id, public_bytes, sign
from potluck.wire.v1.envelope_pb2 import Blob, Envelope

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
BLOB = Blob(digest=b"d" * 32, size=7)


def test_a_signed_message_comes_back():
    envelope = sign(KEY, Purpose.OFFER, "somebody", BLOB)

    assert opened(envelope, Purpose.OFFER, "somebody", Blob, signer=public_bytes(KEY)) == BLOB


@pytest.mark.parametrize(
    ("purpose", "audience"), [(Purpose.SUBMIT, "somebody"), (Purpose.OFFER, "somebody else"), (Purpose.OFFER, "")]
)
def test_it_is_void_elsewhere(purpose: Purpose, audience: str):
    """An offer signed for one coordinator can be replayed neither as a submit nor to another coordinator."""
    envelope = sign(KEY, Purpose.OFFER, "somebody", BLOB)

    with pytest.raises(BadSignature):
        opened(envelope, purpose, audience, Blob)


def test_another_signer_is_refused():
    envelope = sign(OTHER, Purpose.OFFER, "somebody", BLOB)

    with pytest.raises(BadSignature, match="signed by"):
        opened(envelope, Purpose.OFFER, "somebody", Blob, signer=public_bytes(KEY))


@given(st.data())
def test_any_changed_bit_is_noticed(data: st.DataObject):
    envelope = sign(KEY, Purpose.OFFER, "somebody", BLOB)
    name = data.draw(st.sampled_from(["payload", "signer", "signature"]))
    value = bytearray(getattr(envelope, name))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    setattr(envelope, name, bytes(value))

    with pytest.raises(BadSignature):
        opened(envelope, Purpose.OFFER, "somebody", Blob, signer=public_bytes(KEY) if name == "signer" else None)


@given(st.binary(max_size=200))
def test_nothing_is_parsed_before_the_signature_holds(payload: bytes):
    with pytest.raises(BadSignature):
        opened(Envelope(payload=payload, signer=b"x" * 32, signature=b"y" * 64), Purpose.OFFER, "a", Blob)


def test_a_well_signed_payload_of_another_kind_is_refused():
    with pytest.raises(BadSignature, match="no Blob"):
        opened(sign(KEY, Purpose.OFFER, "a", b"\xff\xff\xff"), Purpose.OFFER, "a", Blob)


def test_raw_bytes_can_be_signed_too():
    assert checked(sign(KEY, Purpose.RELEASE, "", b"words"), Purpose.RELEASE, "") == b"words"


def test_a_name_is_a_pure_function_of_the_key():
    assert peer_id(public_bytes(KEY)) == peer_id(public_bytes(KEY)) != peer_id(public_bytes(OTHER))
    assert len(peer_id(public_bytes(KEY))) == 32
    with pytest.raises(BadSignature):
        peer_id(b"short")
