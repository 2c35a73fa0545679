"""The log of a run: each entry is bound to all before it, and the coordinator signs the last.

hᵢ = SHA-256("potluck/log" ‖ 0 ‖ u64be(i) ‖ hᵢ₋₁ ‖ SHA-256(entry)), with h₋₁ = 32 zero bytes.  On disk it is one JSON
object a line, log.jsonl, and beside it the signed head, log.head.json.

What a reader of the two files can find out: an entry that was edited, left out, added in between or moved; a log that
was cut off below its signed head; a head that the coordinator did not sign.  What it cannot: that the coordinator
itself wrote another history, or that somebody put back an older log together with its older head.  Against those, keep
a head that you saw earlier, such as the one in a release, and ask whether it is still in the log (*seen*).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from potluck.aggregation.errors import PotluckError
from potluck.wire.envelopes import BadSignature, Purpose, checked, peer_id
from potluck.wire.v1.envelope_pb2 import Envelope

START: Final = bytes(32)
"""h₋₁: what the first entry is bound to."""
LOG_FILE: Final = "log.jsonl"
HEAD_FILE: Final = "log.head.json"


class BadLog(PotluckError):
    """A log that is not what its coordinator wrote."""


@final
@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a whole log says."""

    run_id: str
    run_name: str
    coordinator_id: str
    entries: int
    signed: int
    """Entries that the signed head covers; a coordinator at work may have written a few more."""
    head: bytes
    """Hash of the last signed entry."""
    members: int
    """Clients that joined, ever."""
    version: int
    """The last version."""


def canonical(value: object) -> str:
    """Return *value* as the one JSON text that is hashed: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain_hash(index: int, previous: bytes, entry: bytes) -> bytes:
    """Return hᵢ, 32 bytes, for the *entry* at *index* after an entry whose hash is *previous*."""
    fixed = b"potluck/log\0" + index.to_bytes(8, "big") + previous
    return hashlib.sha256(fixed + hashlib.sha256(entry).digest()).digest()


def log_line(index: int, entry: str, hashed: bytes) -> str:
    """Return one line of log.jsonl, without its line end."""
    return canonical({"index": index, "hash": hashed.hex(), "entry": json.loads(entry)})


def head_payload(run_id: str, index: int, hashed: bytes) -> bytes:
    """Return what the coordinator signs, purpose "log": that this entry is the last."""
    return canonical({"run_id": run_id, "index": index, "hash": hashed.hex()}).encode()


def signature_text(envelope: Envelope, *, with_payload: bool = False) -> str:
    """Return the signature in *envelope* as JSON, for a file beside what it signs or, with it, instead of it."""
    payload = {"payload": envelope.payload.decode()} if with_payload else {}
    return canonical({"signer": envelope.signer.hex(), "signature": envelope.signature.hex(), **payload}) + "\n"


def signed_payload(
    text: str, purpose: Purpose, *, payload: bytes | None = None, coordinator_key: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return the payload and the signer's key of a signature_text, once it has been verified.

    Raises:
        BadSignature: it does not hold, is of somebody other than *coordinator_key*, or is no signature at all.
    """
    try:
        found = json.loads(text)
        told = found["payload"].encode() if payload is None else payload
        envelope = Envelope(
            payload=told, signer=bytes.fromhex(found["signer"]), signature=bytes.fromhex(found["signature"])
        )
        if signature_text(envelope, with_payload=payload is None) != text:
            raise ValueError("not as it was written")  # noqa: TRY301 - told below, as all other damage
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadSignature("the signature file is damaged", fix="get the files again, from the coordinator") from None
    return checked(envelope, purpose, peer_id(envelope.signer), signer=coordinator_key), envelope.signer


def verify_log(path: Path, *, coordinator_key: bytes | None = None, seen: bytes | None = None) -> LogSummary:
    """Verify the log at *path* (log.jsonl, or the folder with it) and the signed head beside it.

    *coordinator_key* pins who must have signed; otherwise the key that the log itself names in its first entry is
    taken.  *seen* is the hash of an entry known from elsewhere that must be in the log.

    Raises:
        BadLog: it was edited, reordered, or cut off; or *seen* is not in it.
        BadSignature: the head was not signed by the coordinator.
    """
    log = path / LOG_FILE if path.is_dir() else path
    head_file = log.with_name(HEAD_FILE)
    try:
        text = head_file.read_text("utf-8")  # before the log, which only ever grows
        lines = log.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadLog(f"{log} cannot be read with its head: {error}", fix=f"put {LOG_FILE} beside {HEAD_FILE}") from None
    payload, signer = signed_payload(text, Purpose.LOG, coordinator_key=coordinator_key)
    head = _head(payload)
    entries = list(read_lines(lines))
    hashes = [hashed for _, hashed in entries]
    if not entries or len(entries) <= head["index"]:
        raise BadLog(
            f"the log was cut off: its signed head covers {head['index'] + 1} entries, {len(entries)} are there",
            fix="get the whole log from the coordinator",
        )
    if hashes[head["index"]].hex() != head["hash"]:
        raise BadLog(f"entry {head['index']} is not the one that the coordinator signed", fix="do not trust this log")
    if seen is not None and seen not in hashes:
        raise BadLog(
            f"entry {seen.hex()[:16]}… was in the log once and is not now", fix="do not trust this coordinator"
        )
    return _summary([entry for entry, _ in entries], hashes, head, signer)


@final
class _Head(BaseModel):
    """What a signed head must hold."""

    model_config = ConfigDict(strict=True, extra="forbid")

    run_id: str
    index: NonNegativeInt
    hash: str


def _head(payload: bytes) -> dict[str, Any]:
    """Return the signed head as plain values.

    Raises:
        BadLog: it is no head.
    """
    try:
        return _Head.model_validate_json(payload).model_dump()
    except ValidationError:
        raise BadLog("the signed head is not one", fix="get both files again, from the coordinator") from None


def read_lines(lines: Iterable[str]) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Yield (entry, hash) for every line, once it is shown to follow from all before it.

    Raises:
        BadLog: a line is not as it was written, or does not follow.
    """
    previous = START
    for place, line in enumerate(lines):
        try:
            found = json.loads(line)
            whole = canonical(found) == line and found.keys() == {"index", "hash", "entry"}
            whole = whole and isinstance(found["entry"], dict) and isinstance(found["entry"].get("version", 0), int)
        except (ValueError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise BadLog(f"line {place + 1} of the log is damaged", fix="get the log again from the coordinator")
        if found["index"] != place:
            raise BadLog(
                f"line {place + 1} of the log has entry {found['index']}, not {place}: entries were moved or left out",
                fix="do not trust this log",
            )
        previous = chain_hash(place, previous, canonical(found["entry"]).encode())
        if found["hash"] != previous.hex():
            raise BadLog(f"entry {place} of the log was edited, or one before it", fix="do not trust this log")
        yield found["entry"], previous


def _summary(
    entries: list[Mapping[str, Any]], hashes: list[bytes], head: Mapping[str, Any], signer: bytes
) -> LogSummary:
    """Return what the *entries* say, once the first is shown to name the run and the key that signed."""
    opened = entries[0]
    if opened.get("kind") != "run_opened" or opened.get("run_id") != head["run_id"]:
        raise BadLog("the log does not begin with the run that its head is signed for", fix="do not trust this log")
    if opened.get("coordinator_key") != signer.hex():
        raise BadSignature("the head is signed by another key than the log names", fix="do not trust this log")
    return LogSummary(
        run_id=opened["run_id"],
        run_name=str(opened.get("run_name", "")),
        coordinator_id=peer_id(signer),
        entries=len(entries),
        signed=head["index"] + 1,
        head=hashes[head["index"]],
        members=len({entry.get("client_id") for entry in entries if entry.get("kind") == "enrolled"}),
        version=max((entry["version"] for entry in entries if isinstance(entry.get("version"), int)), default=0),
    )
