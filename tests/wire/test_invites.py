"""An invite is whole and names whom to trust, or it is refused before anything is sent."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.envelopes import public_bytes
from potluck.wire.invites import BadInvite, read, write
from potluck.wire.v1.enrollment_pb2 import Invite

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def invite(**changes: object) -> str:
    fields = {
        "version": 1,
        "run_id": "r",
        "run_name": "plays",
        "addresses": ["localhost:1", "10.0.0.1:2"],
        "ca_der": b"certificate",
        "invite_id": b"i" * 16,
        "expires_unix_s": 5,
        "max_uses": 3,
    }
    return write(KEY, Invite(**(fields | changes)))


def test_an_invite_comes_back():
    found = read(invite())

    assert found.addresses == ("localhost:1", "10.0.0.1:2")
    assert found.coordinator_key == public_bytes(KEY)
    assert found.server_name == f"{found.coordinator_id}.potluck.internal"


def test_line_breaks_from_a_mail_program_do_not_matter():
    token = invite()

    assert read(f"  {token[:30]}\n {token[30:]}\r\n") == read(token)


@given(st.integers(9, 10_000), st.characters(codec="ascii"))
def test_any_changed_character_is_noticed(place: int, character: str):
    token = invite()
    place = 9 + place % (len(token) - 9)
    changed = token[:place] + character + token[place + 1 :]

    try:
        found = read(changed)
    except BadInvite:
        return
    assert found == read(token)  # only what decodes to the very same bytes may pass


@given(st.integers(0, 10_000))
def test_a_cut_invite_is_refused(length: int):
    token = invite()

    with pytest.raises(BadInvite) as caught:
        read(token[: length % len(token)])
    assert "copy the whole line again" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"addresses": []}, {"addresses": ["a:1"] * 5}, {"invite_id": b"x"}, {"ca_der": b""}]
)
def test_an_invite_that_lacks_something_is_refused(changes: dict[str, object]):
    with pytest.raises(BadInvite):
        read(invite(**changes))


def test_an_endless_invite_is_refused():
    with pytest.raises(BadInvite, match="8192"):
        read("potluck1." + "A" * 10_000)


@given(st.text())
def test_any_text_is_an_invite_or_a_clear_refusal(text: str):
    with pytest.raises(BadInvite):
        read(text)
