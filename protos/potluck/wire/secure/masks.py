"""Masks: the keystream of AES-256-CTR as whole numbers, added and taken off in place.

Key = the 32-byte seed, counter from zero, keystream as little-endian words.  One key masks one vector: the sum's id is
inside every key's derivation, so the counter may begin at zero.

Source: NIST SP 800-38A, §6.5.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from potluck.aggregation.secure.ring import Words

CHUNK_WORDS: Final = 1 << 16
"""256 KiB at a time, which stays in the processor's cache."""
_BLOCK_WORDS: Final = 4

Signed = tuple[bytes, int]
"""A mask's key, and +1 to add it or −1 to take it off."""


def add_masks(words: Words, masks: Sequence[Signed], threads: int = 1) -> None:
    """Add or take off every mask, modulo 2³² and in place.

    Each thread goes through its own part of the vector, all masks to a chunk, so that nothing but the vector grows
    with its size: half a MiB and about a KiB for each mask is all that a thread needs besides.
    """
    share = -(-len(words) // max(1, threads))
    share = -(-share // CHUNK_WORDS) * CHUNK_WORDS
    parts = [(start, words[start : start + share]) for start in range(0, len(words), max(share, 1))]
    if len(parts) <= 1:
        _add(words, 0, masks)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_add, part, start, masks) for start, part in parts]:
            done.result()


def mask_words(key: bytes, count: int) -> Words:
    """Return the first *count* words of a mask."""
    words = np.zeros(count, np.uint32)
    add_masks(words, [(key, 1)])
    return words


def _add(words: Words, start: int, masks: Iterable[Signed]) -> None:
    """Add masks to the part of a vector that begins at *start*, a multiple of a chunk."""
    streams = [(_stream(key, start), np.add if sign > 0 else np.subtract) for key, sign in masks]
    zeros, stream = bytes(4 * CHUNK_WORDS), np.empty(CHUNK_WORDS, "<u4")
    buffer = stream.view(np.uint8).data
    for place in range(0, len(words), CHUNK_WORDS):
        part = words[place : place + CHUNK_WORDS]
        size = len(part)
        for context, fold in streams:
            context.update_into(zeros if size == CHUNK_WORDS else zeros[: 4 * size], buffer)
            fold(part, stream[:size], out=part)


def _stream(key: bytes, start: int) -> CipherContext:
    """Return the keystream from word *start* on."""
    counter = (start // _BLOCK_WORDS).to_bytes(16, "big")
    return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
