"""What is sealed opens with its key, and with nothing else; every byte of the file is covered."""

import json
from pathlib import Path

import pytest

from potluck.client.vault import (
    COST,
    MAGIC,
    MOST_COST,
    BadPassphrase,
    GuardedRing,
    Key,
    Keyring,
    Locked,
    NoKeyring,
    Passphrase,
    kind_of,
    seal,
    unseal,
)
from rings import FakeRing, ForgetfulRing, LockedRing

SECRET = b"my own adapter " * 50
WORDS = "four quiet purple elks"


def ring_key() -> Keyring:
    return Keyring(FakeRing(), "personal-test")


@pytest.fixture(params=["passphrase", "keyring"])
def key(request) -> Key:
    return Passphrase(WORDS) if request.param == "passphrase" else ring_key()


def test_what_is_sealed_opens_again_and_shows_nothing(key: Key, tmp_path: Path):
    path = tmp_path / "deep" / "file.sealed"

    seal(SECRET, key, path)

    assert unseal(path, key) == SECRET
    assert kind_of(path) == key.kind
    assert b"adapter" not in path.read_bytes()
    assert WORDS.encode() not in path.read_bytes()
    assert path.parent.stat().st_mode & 0o077 == 0


def test_the_same_thing_sealed_twice_shares_no_key_and_no_nonce(tmp_path: Path):
    key = ring_key()
    heads, bodies = [], []
    for name in ("a", "b"):
        seal(SECRET, key, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        heads.append(json.loads(data[len(MAGIC) + 2 : data.index(b"}") + 1]))
        bodies.append(data[data.index(b"}") + 1 :])

    assert heads[0]["salt"] != heads[1]["salt"]
    assert heads[0]["nonce"] != heads[1]["nonce"]
    assert bodies[0] != bodies[1]


def test_another_passphrase_does_not_open_it(tmp_path: Path):
    seal(SECRET, Passphrase(WORDS), tmp_path / "f")

    with pytest.raises(Locked, match="not the right one") as caught:
        unseal(tmp_path / "f", Passphrase(WORDS + "s"))
    assert caught.value.__notes__


def test_another_keyring_does_not_open_it(tmp_path: Path):
    seal(SECRET, ring_key(), tmp_path / "f")

    with pytest.raises(Locked, match="no key called 'personal-test'"):
        unseal(tmp_path / "f", ring_key())


def test_a_keyring_keeps_one_secret_for_all_files(tmp_path: Path):
    key = ring_key()
    for name in ("a", "b"):
        seal(SECRET, key, tmp_path / name)

    assert len(key.ring.kept) == 1
    assert unseal(tmp_path / "a", key) == unseal(tmp_path / "b", key) == SECRET


def test_what_was_sealed_with_the_one_is_not_tried_with_the_other(tmp_path: Path):
    seal(SECRET, ring_key(), tmp_path / "f")

    with pytest.raises(Locked, match="sealed with a keyring, not with a passphrase"):
        unseal(tmp_path / "f", Passphrase(WORDS))


def test_every_byte_of_the_file_is_covered(tmp_path: Path):
    """A flipped bit anywhere, in the magic, the head, the numbers or the tag, is found."""
    key, path = ring_key(), tmp_path / "f"
    seal(b"short", key, path)
    good = path.read_bytes()

    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(Locked):
            unseal(path, key)
    for end in (0, 5, len(MAGIC) + 1, len(good) - 1):
        path.write_bytes(good[:end])
        with pytest.raises(Locked):
            unseal(path, key)


def test_a_head_cannot_ask_for_all_the_memory(tmp_path: Path):
    """It is refused before scrypt is begun: 2³⁰ would be a terabyte."""
    path = tmp_path / "f"
    seal(SECRET, Passphrase(WORDS), path)
    data = path.read_bytes()

    for cost in (2 * MOST_COST, 2**30, 0, 3, -8):
        head = json.loads(data[len(MAGIC) + 2 : data.index(b"}") + 1]) | {"n": cost}
        told = json.dumps(head).encode()
        path.write_bytes(MAGIC + len(told).to_bytes(2, "big") + told + data[data.index(b"}") + 1 :])
        with pytest.raises(Locked, match="asks for scrypt"):
            unseal(path, Passphrase(WORDS))


def test_a_short_passphrase_is_refused_when_it_is_new(tmp_path: Path):
    with pytest.raises(BadPassphrase, match="7 characters, 8 are the least"):
        seal(SECRET, Passphrase("seven.."), tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_keyring_that_keeps_nothing_is_found_out_before_anything_is_sealed(tmp_path: Path):
    with pytest.raises(NoKeyring, match="does not keep"):
        seal(SECRET, Keyring(ForgetfulRing(), "x"), tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_keyring_that_stays_locked_is_told_with_what_to_do(tmp_path: Path):
    with pytest.raises(NoKeyring, match="does not answer: the owner said no") as caught:
        seal(SECRET, Keyring(GuardedRing(LockedRing(), PermissionError), "x"), tmp_path / "f")

    assert "--passphrase" in caught.value.__notes__[0]


def test_a_passphrase_is_never_shown():
    assert WORDS not in repr(Passphrase(WORDS))
    assert COST >= 2**17
