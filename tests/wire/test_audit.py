"""A log that was edited, reordered or cut off says so."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from potluck.wire.audit import (
    HEAD_FILE,
    LOG_FILE,
    START,
    BadLog,
    canonical,
    chain_hash,
    head_payload,
    log_line,
    signature_text,
    verify_log,
)
from potluck.wire.envelopes import BadSignature, Purpose, peer_id, public_bytes, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ENTRIES = [
    {"kind": "run_opened", "run_id": "r", "run_name": "plays", "coordinator_key": public_bytes(KEY).hex()},
    {"kind": "enrolled", "client_id": "a"},
    {"kind": "enrolled", "client_id": "b"},
    {"kind": "round_committed", "round": 1, "version": 1, "truncation_error": 0.1 + 0.2},
    {"kind": "round_committed", "round": 2, "version": 2, "truncation_error": 1e-300},
]


def hashes(entries: list[dict[str, object]]) -> list[bytes]:
    made, previous = [], START
    for index, entry in enumerate(entries):
        previous = chain_hash(index, previous, canonical(entry).encode())
        made.append(previous)
    return made


def write(
    folder: Path, entries: list[dict[str, object]], *, key: Ed25519PrivateKey = KEY, head: int | None = None
) -> Path:
    chain = hashes(entries)
    lines = [log_line(index, canonical(entry), chain[index]) for index, entry in enumerate(entries)]
    last = len(entries) - 1 if head is None else head
    envelope = sign(key, Purpose.LOG, peer_id(public_bytes(key)), head_payload("r", last, chain[last]))
    (folder / LOG_FILE).write_text("\n".join(lines) + "\n")
    (folder / HEAD_FILE).write_text(signature_text(envelope, with_payload=True))
    return folder


def test_the_chain_is_the_documented_one():
    """Worked without our function: SHA-256("potluck/log" ‖ 0 ‖ u64be(i) ‖ h ‖ SHA-256(entry))."""
    first = hashlib.sha256(b"potluck/log\0" + bytes(8) + bytes(32) + hashlib.sha256(b"{}").digest()).digest()
    place = (258).to_bytes(8, "big")
    second = hashlib.sha256(b"potluck/log\0" + place + first + hashlib.sha256(b"x").digest()).digest()

    assert chain_hash(0, START, b"{}") == first
    assert chain_hash(258, first, b"x") == second


def test_a_whole_log_is_summed_up(tmp_path: Path):
    found = verify_log(write(tmp_path, ENTRIES), coordinator_key=public_bytes(KEY))

    assert (found.run_id, found.run_name, found.coordinator_id) == ("r", "plays", peer_id(public_bytes(KEY)))
    assert (found.entries, found.signed, found.members, found.version) == (5, 5, 2, 2)
    assert found.head == hashes(ENTRIES)[-1]
    assert verify_log(tmp_path / LOG_FILE) == found


def test_entries_written_since_the_head_was_signed_are_told(tmp_path: Path):
    """The coordinator may be at work; nothing is wrong, but not all of it is signed yet."""
    found = verify_log(write(tmp_path, ENTRIES, head=2))

    assert (found.entries, found.signed, found.version) == (5, 3, 2)


def edited(lines: list[str]) -> list[str]:
    return [line.replace('"client_id":"a"', '"client_id":"x"') for line in lines]


def rehashed(lines: list[str]) -> list[str]:
    """Edit an entry and make its own hash fit again: the next one does not."""
    found = json.loads(lines[1])
    found["entry"]["client_id"] = "x"
    previous = bytes.fromhex(json.loads(lines[0])["hash"])
    found["hash"] = chain_hash(1, previous, canonical(found["entry"]).encode()).hex()
    return [lines[0], canonical(found), *lines[2:]]


TAMPERINGS: dict[str, Callable[[list[str]], list[str]]] = {
    "edited": edited,
    "edited and hashed anew": rehashed,
    "two swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "one left out": lambda lines: [lines[0], *lines[2:]],
    "cut off": lambda lines: lines[:-1],
    "cut off in a line": lambda lines: [*lines[:-1], lines[-1][:-5]],
    "empty": lambda _: [],
    "one repeated": lambda lines: [*lines, lines[-1]],
    "spaces added": lambda lines: [lines[0].replace(":", ": "), *lines[1:]],
    "not JSON": lambda lines: [*lines, "garbage"],
    "a key twice": lambda lines: [lines[0][:-1] + ',"index":0}', *lines[1:]],
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_a_log_that_was_tampered_with_is_refused(tmp_path: Path, tamper: Callable[[list[str]], list[str]]):
    path = write(tmp_path, ENTRIES) / LOG_FILE
    path.write_text("".join(line + "\n" for line in tamper(path.read_text().splitlines())))

    with pytest.raises(BadLog) as caught:
        verify_log(path)
    assert caught.value.__notes__


@given(st.data())
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = write(tmp_path_factory.mktemp("log"), ENTRIES)
    path = folder / data.draw(st.sampled_from([LOG_FILE, HEAD_FILE]))
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 2))  # the very last line end means nothing
    whole[place] ^= 1 << data.draw(st.integers(0, 6))
    path.write_bytes(bytes(whole))

    with pytest.raises((BadLog, BadSignature)):
        verify_log(folder)


def test_a_history_rewritten_from_the_start_needs_the_coordinators_key(tmp_path: Path):
    rewritten = [ENTRIES[0], *ENTRIES[2:]]

    with pytest.raises(BadSignature, match="another key than the log names"):
        verify_log(write(tmp_path, rewritten, key=OTHER))
    with pytest.raises(BadSignature):
        verify_log(
            write(tmp_path, [ENTRIES[0] | {"coordinator_key": public_bytes(OTHER).hex()}], key=OTHER),
            coordinator_key=public_bytes(KEY),
        )


def test_an_older_log_put_back_whole_is_noticed_by_who_saw_more(tmp_path: Path):
    """The two files alone cannot show it: they are what the coordinator once signed."""
    seen = hashes(ENTRIES)[-1]
    folder = write(tmp_path, ENTRIES[:3])

    assert verify_log(folder).entries == 3
    with pytest.raises(BadLog, match="was in the log once"):
        verify_log(folder, seen=seen)


def test_a_log_without_its_head_is_refused(tmp_path: Path):
    """Without it, nobody could tell whether the end is missing."""
    (write(tmp_path, ENTRIES) / HEAD_FILE).unlink()

    with pytest.raises(BadLog, match="cannot be read with its head"):
        verify_log(tmp_path)


def test_a_head_of_another_run_is_refused(tmp_path: Path):
    with pytest.raises(BadLog, match="does not begin with the run"):
        verify_log(write(tmp_path, [ENTRIES[0] | {"run_id": "other"}, *ENTRIES[1:]]))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"payload":1,"signer":"","signature":""}', "\x00"])
def test_a_head_that_is_none_is_refused(tmp_path: Path, text: str):
    (write(tmp_path, ENTRIES) / HEAD_FILE).write_text(text)

    with pytest.raises(BadSignature):
        verify_log(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_an_entry_is_one_text_and_comes_back(entry: object):
    """Floats print as the shortest text that reads back the same, so a hash can be taken again from the file."""
    assert canonical(json.loads(canonical(entry))) == canonical(entry)


@pytest.mark.parametrize(
    "head",
    ["{}", "[]", '{"run_id":"r","index":-1,"hash":"00"}', '{"run_id":"r","index":"0","hash":"00"}', "x", "[" * 5_000],
    ids=range(6),
)
def test_a_signed_head_that_is_none_is_refused(tmp_path: Path, head: str):
    folder = write(tmp_path, ENTRIES)
    envelope = sign(KEY, Purpose.LOG, peer_id(public_bytes(KEY)), head.encode())
    (folder / HEAD_FILE).write_text(signature_text(envelope, with_payload=True))

    with pytest.raises(BadLog):
        verify_log(folder)
