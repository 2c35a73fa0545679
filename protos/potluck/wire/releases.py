"""A release: an adapter folder that says where it comes from, signed by its coordinator.

release.json names every other file with its SHA-256, the run, the version, the recipe and the place in the log;
release.sig signs the bytes of release.json.  The folder is complete: a file that release.json does not name is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from potluck.aggregation.errors import PotluckError
from potluck.wire.audit import canonical, signature_text, signed_payload
from potluck.wire.envelopes import Purpose, peer_id, public_bytes, sign

MANIFEST_FILE: Final = "release.json"
SIGNATURE_FILE: Final = "release.sig"
LAYOUT: Final = 1
_PIECE: Final = 1024 * 1024
_FILE_NAME: Final = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}$")
_FIX: Final = "get the release again, from the coordinator or somebody you trust"


class BadRelease(PotluckError):
    """A release folder that is not what its coordinator signed."""


@final
@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """What a verified release says."""

    run_id: str
    run_name: str
    version: int
    coordinator_id: str
    coordinator_key: bytes
    base_model: str
    base_digest: str
    adapter_digest: str
    """SHA-256 of the blob that clients downloaded for this version."""
    recipe_digest: str
    log_index: int
    log_hash: bytes
    """The log's entry that committed this version; see verify_log's *seen*."""
    contributors: int
    examples: int
    files: int
    facts: Mapping[str, Any]
    """release.json, whole."""


def sign_release(folder: Path, key: Ed25519PrivateKey, facts: Mapping[str, Any]) -> None:
    """Write release.json with *facts* and the digest of every file in *folder*, and sign it with *key*."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    text = canonical({"layout": LAYOUT, **facts, "files": files}) + "\n"
    envelope = sign(key, Purpose.RELEASE, peer_id(public_bytes(key)), text.encode())
    (folder / MANIFEST_FILE).write_text(text, "utf-8")
    (folder / SIGNATURE_FILE).write_text(signature_text(envelope), "utf-8")


def verify_release(folder: Path, coordinator_key: bytes | None = None) -> ReleaseSummary:
    """Verify the release in *folder*: who signed it, and that every file is the one that was signed.

    Without *coordinator_key* it shows only that whoever signed made the whole folder; compare the coordinator_id in
    the result with the one in your invite.

    Raises:
        BadRelease: a file is missing, altered, or not named; or the folder is no release.
        BadSignature: the signature does not hold, or is of somebody else.
    """
    try:
        manifest = (folder / MANIFEST_FILE).read_bytes()
        signature = (folder / SIGNATURE_FILE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadRelease(f"{folder} has no readable {MANIFEST_FILE} and {SIGNATURE_FILE}", fix=_FIX) from None
    _, signer = signed_payload(signature, Purpose.RELEASE, payload=manifest, coordinator_key=coordinator_key)
    facts = _facts(manifest)
    there = {path.name for path in folder.iterdir()} - {MANIFEST_FILE, SIGNATURE_FILE}
    if there != facts["files"].keys():
        missing, extra = sorted(facts["files"].keys() - there), sorted(there - facts["files"].keys())
        raise BadRelease(f"{folder}: missing files {missing}, files nobody signed {extra}", fix=_FIX)
    for name, digest in facts["files"].items():
        if not _FILE_NAME.match(name) or (folder / name).is_symlink() or not (folder / name).is_file():
            raise BadRelease(f"{name!r} is no plain file of a release", fix=_FIX)
        if _sha256(folder / name) != digest:
            raise BadRelease(f"{name} was altered after the coordinator signed it", fix=_FIX)
    return _summary(facts, signer)


@final
class _Facts(BaseModel):
    """What release.json must hold.  Whoever made it also signed it, so the signature says nothing about its shape."""

    model_config = ConfigDict(strict=True, extra="ignore")

    layout: Literal[1]
    run_id: str
    run_name: str
    version: int
    base_model: str
    base_digest: str
    adapter_digest: str
    recipe_digest: str
    log_index: int
    log_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    contributors: int
    examples: int
    files: dict[str, str]


def _facts(manifest: bytes) -> dict[str, Any]:
    """Return release.json.

    Raises:
        BadRelease: it is of another layout, or lacks something.
    """
    try:
        _Facts.model_validate_json(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadRelease(f"{MANIFEST_FILE}: {where}: {first['msg']}", fix="update potluck, or " + _FIX) from None
    facts: dict[str, Any] = json.loads(manifest)
    return facts


def _summary(facts: Mapping[str, Any], signer: bytes) -> ReleaseSummary:
    return ReleaseSummary(
        run_id=facts["run_id"],
        run_name=facts["run_name"],
        version=facts["version"],
        coordinator_id=peer_id(signer),
        coordinator_key=signer,
        base_model=facts["base_model"],
        base_digest=facts["base_digest"],
        adapter_digest=facts["adapter_digest"],
        recipe_digest=facts["recipe_digest"],
        log_index=facts["log_index"],
        log_hash=bytes.fromhex(facts["log_hash"]),
        contributors=facts["contributors"],
        examples=facts["examples"],
        files=len(facts["files"]),
        facts=facts,
    )


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return total.hexdigest()
