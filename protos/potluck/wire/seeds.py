"""The seed of a version's starts, worked out in the same way by both sides."""

import hashlib


def seed_of(recipe_digest: bytes, version: int) -> int:
    """Return the seed for starts from *version*, 64 bits: the same in every run of the recipe with that SHA-256."""
    text = b"potluck/seed\0" + recipe_digest + version.to_bytes(8, "big")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
