import logging
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from potluck.client.errors import BadKey
from potluck.client.identity import check_digits, display, identity_at
from potluck.wire.envelopes import peer_id, public_bytes

ids = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=6, max_size=6)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    first, second = identity_at(tmp_path / "key"), identity_at(tmp_path / "key")

    assert first.client_id == second.client_id == peer_id(public_bytes(first.key))
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_two_programs_that_start_at_once_agree_on_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: identity_at(tmp_path / "key").client_id, range(8)))

    assert len(set(found)) == 1


def test_a_key_that_others_can_read_is_closed_with_a_warning(tmp_path, caplog):
    identity_at(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)

    with caplog.at_level(logging.WARNING):
        identity_at(tmp_path / "key")

    assert "key_was_open" in caplog.text
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["cut off", "another kind", "empty"])
def test_a_key_file_of_no_use_is_never_written_over(tmp_path, kind):
    pem = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {"cut off": pem[:50], "another kind": pem, "empty": b""}[kind]
    (tmp_path / "key").write_bytes(content)

    with pytest.raises(BadKey) as caught:
        identity_at(tmp_path / "key")

    assert "backup" in caught.value.__notes__[0]
    assert (tmp_path / "key").read_bytes() == content


def test_a_display_name_can_be_read_aloud_and_stays_the_same():
    assert display("a" * 32) == display("a" * 32)
    words, short = display("k3x7qa" + "b" * 26).split()
    assert words.count("-") == 1
    assert short == "k3x7qa-" + check_digits("k3x7qa")


@given(text=ids, place=st.integers(0, 5), other=st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_check_digits_catch_every_mistyped_character(text, place, other):
    changed = text[:place] + other + text[place + 1 :]

    assert (check_digits(text) == check_digits(changed)) is (text == changed)


@given(text=ids, place=st.integers(0, 4))
def test_check_digits_catch_every_swap_of_neighbours(text, place):
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]

    assert (check_digits(text) == check_digits(swapped)) is (text == swapped)
