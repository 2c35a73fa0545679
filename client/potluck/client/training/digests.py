"""What a base model is, as one SHA-256: two machines with the same digest compute with the same model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

DEFINING: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
REWRITTEN: Final = frozenset({"config.json", "tokenizer_config.json", "special_tokens_map.json"})
"""Files that transformers writes differently from version to version without a change in meaning."""

VOLATILE: Final = frozenset(
    {"_name_or_path", "_from_model_config", "transformers_version", "backend", "is_local", "local_files_only"}
)
KEPT: Final = ".potluck-hashes.json"


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(folder: Path, kept: Path | None = None) -> str:
    """Return the SHA-256 over the sorted (relative path, size, SHA-256) of the files that define the model.

    Configuration that transformers rewrites is hashed without the keys in VOLATILE, in one fixed spelling.  Hashes of
    the large files are kept in *kept* (default: a small file in *folder*) by size and time of change, so only the first
    call reads them: 538 MB take about a second.
    """
    lines = []
    whole = hashes(folder, kept)
    for name, known in sorted(whole.items()):
        path = folder / name
        if name in REWRITTEN:
            canonical = _canonical(path)
            lines.append(f"{name}\0{len(canonical)}\0{hashlib.sha256(canonical).hexdigest()}\n")
        else:
            lines.append(f"{name}\0{path.stat().st_size}\0{known}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hashes(folder: Path, kept: Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of every defining file of *folder* by name, reading only what changed since the last call."""
    kept = kept or folder / KEPT
    known = _known(kept)
    found: dict[str, list[int | str]] = {}
    for path in sorted({path for pattern in DEFINING for path in folder.glob(pattern) if path.is_file()}):
        status = path.stat()
        mark = [status.st_size, status.st_mtime_ns]
        entry = known.get(path.name)
        hit = isinstance(entry, list) and entry[:2] == mark and len(entry) == 3  # noqa: PLR2004 - size, time, hash
        found[path.name] = entry if hit and entry else [*mark, sha256(path)]
    if found != known:
        _keep(kept, found)
    return {name: str(entry[2]) for name, entry in found.items()}


def _known(kept: Path) -> Mapping[str, Any]:
    """Return what was kept; nothing if it is missing or damaged, so the files are read again."""
    try:
        known = json.loads(kept.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(kept: Path, found: Mapping[str, object]) -> None:
    """Write *found* for the next call, if this folder lets us: it may be somebody else's."""
    draft = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(found, indent=1), "utf-8")
        draft.replace(kept)
    except OSError:
        draft.unlink(missing_ok=True)


def _canonical(path: Path) -> bytes:
    content = json.loads(path.read_text("utf-8"))
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in VOLATILE}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
