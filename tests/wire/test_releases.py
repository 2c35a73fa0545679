"""A release is what its coordinator signed, or it is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.wire.audit import signature_text
from potluck.wire.envelopes import BadSignature, Purpose, peer_id, public_bytes, sign
from potluck.wire.releases import MANIFEST_FILE, SIGNATURE_FILE, BadRelease, sign_release, verify_release

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
FACTS = {
    "run_id": "r",
    "run_name": "plays",
    "version": 3,
    "base_model": "somebody/model",
    "base_digest": "ab" * 32,
    "adapter_digest": "cd" * 32,
    "recipe_digest": "ef" * 32,
    "log_index": 7,
    "log_hash": "12" * 32,
    "contributors": 4,
    "examples": 400,
}


def release(folder: Path, key: Ed25519PrivateKey = KEY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (folder / "adapter_config.json").write_text("{}")
    sign_release(folder, key, FACTS)
    return folder


def test_a_whole_release_is_summed_up(tmp_path: Path):
    found = verify_release(release(tmp_path / "v0003"), public_bytes(KEY))

    assert (found.run_name, found.version, found.files) == ("plays", 3, 2)
    assert (found.coordinator_id, found.coordinator_key) == (peer_id(public_bytes(KEY)), public_bytes(KEY))
    assert (found.log_index, found.log_hash) == (7, bytes.fromhex("12" * 32))


def test_the_same_files_are_signed_the_same(tmp_path: Path):
    """A release can be made again from the database, byte for byte."""
    first, second = release(tmp_path / "a"), release(tmp_path / "b")

    for name in (MANIFEST_FILE, SIGNATURE_FILE):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def flip(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(bytes(data))

    return change


def swap_for_link(folder: Path) -> None:
    real = folder.parent / "elsewhere"
    (folder / "adapter_config.json").rename(real)
    (folder / "adapter_config.json").symlink_to(real)


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "weights": flip("adapter_model.safetensors"),
    "config": flip("adapter_config.json"),
    "manifest": flip(MANIFEST_FILE),
    "signature": flip(SIGNATURE_FILE),
    "a file less": lambda folder: (folder / "adapter_config.json").unlink(),
    "a file more": lambda folder: (folder / "adapter_model.bin").write_bytes(b"pickle"),
    "a folder more": lambda folder: (folder / "code").mkdir(),
    "a link": swap_for_link,
    "no manifest": lambda folder: (folder / MANIFEST_FILE).unlink(),
    "no signature": lambda folder: (folder / SIGNATURE_FILE).unlink(),
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_a_release_that_was_tampered_with_is_refused(tmp_path: Path, tamper: Callable[[Path], object]):
    folder = release(tmp_path / "v0003")
    tamper(folder)

    with pytest.raises((BadRelease, BadSignature)) as caught:
        verify_release(folder)
    assert caught.value.__notes__ or isinstance(caught.value, BadSignature)


def test_the_release_of_somebody_else_is_refused_when_one_knows_whom_to_trust(tmp_path: Path):
    folder = release(tmp_path / "v0003", OTHER)

    assert verify_release(folder).coordinator_id == peer_id(public_bytes(OTHER))
    with pytest.raises(BadSignature):
        verify_release(folder, public_bytes(KEY))


def test_a_folder_that_is_no_release_is_refused(tmp_path: Path):
    with pytest.raises(BadRelease, match="no readable"):
        verify_release(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"layout":1}', '{"layout":1,"files":{}}', "no json", "[" * 5_000, '{"layout":"1"}'],
    ids=range(7),
)
def test_a_manifest_that_somebody_signed_and_that_is_none_is_refused(tmp_path: Path, text: str):
    """Anybody can sign anything with a key of their own; the signature says nothing about the shape."""
    folder = release(tmp_path / "v0003")
    envelope = sign(KEY, Purpose.RELEASE, peer_id(public_bytes(KEY)), text.encode())
    (folder / MANIFEST_FILE).write_text(text)
    (folder / SIGNATURE_FILE).write_text(signature_text(envelope))

    with pytest.raises(BadRelease):
        verify_release(folder)
