"""From what training changed to the bytes that travel: the codec, and what it left out of earlier updates.

With error feedback, an update carries what the codec left out of those before, and what it leaves out itself waits
for the next one.  The rest that waits is a file beside the outbox; which update took it and which one made it are
rows of the outbox, written in the same transaction that seals the update or ends its task (outbox/residuals.py).
"""

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation import CODECS, LowRank, decode, encode, from_tensors, to_tensors
from potluck.aggregation.codecs.feedback import OWN, feed, rebased
from potluck.client.home import Home, store
from potluck.client.parked import contribution, park
from potluck.client.records import Left
from potluck.client.starts import begun
from potluck.client.station import Station
from potluck.client.work import Job
from potluck.wire.recipe import Recipe

_LOG = logging.getLogger(__name__)
Deltas = Mapping[str, NDArray[np.floating]]


@final
class Packed(NamedTuple):
    """An update's bytes, and what they lack of all there was to send: None without error feedback."""

    data: bytes
    left: Left | None


def packed(station: Station, job: Job, deltas: Deltas) -> Packed:
    """Return the bytes of an update; what error feedback keeps is on the disk, fsynced.

    The same job and the same rows in the outbox give the same bytes, so it may be done again after a crash.

    Raises:
        BadTensor: the codec cannot hold a value, or the shared adapter on this disk is damaged.
        DiskFull: there is no room for what is kept.
    """
    if station.recipe.privacy.secure_aggregation:  # it travels as numbers of the sum's ring, made when a sum begins
        name = contribution(station.membership.run_id, job.version)
        return Packed(park(encode(deltas, "fp32"), station.identity.key, name), None)
    table = station.recipe.codec
    packing = table.choose(tuple(CODECS))
    run_id, fit = station.membership.run_id, fit_of(station.recipe) if table.error_feedback else b""
    if dropped := station.outbox.residuals.forget_others(run_id, fit):
        _LOG.warning("event=residual_dropped files=%d reason=it is of another run, model, rank or init", dropped)
    if not table.error_feedback:
        return Packed(packing.encode(deltas), None)
    start = begun(job).trainable
    fed = feed(deltas, _waiting(station, fit, start), packing.encode, beta=table.beta)
    left = Left(
        fit=fit,
        digest=_kept(station.home, encode(fed.left, "fp32")),
        basis=_kept(station.home, encode(to_tensors(start), "fp16")),
    )
    return Packed(fed.message, left)


def fit_of(recipe: Recipe) -> bytes:
    """Return the SHA-256 of what a rest belongs to beside its run: module shapes, rank, scale and init."""
    facts = [sorted(recipe.modules().items()), recipe.adapter.rank, recipe.adapter.scale, recipe.init]
    return sha256(json.dumps(facts).encode()).digest()


def _waiting(station: Station, fit: bytes, start: Mapping[str, LowRank]) -> dict[str, NDArray[np.float64]]:
    """Return the sum of all that waits, as deltas from *start*."""
    total: dict[str, NDArray[np.float64]] = {}
    for kept in station.outbox.residuals.free(station.membership.run_id, fit):
        files = [_read(station.home, digest) for digest in (kept.digest, kept.basis)]
        if files[0] is None or files[1] is None:
            _LOG.warning("event=residual_lost file=%s reason=it is gone or damaged", kept.digest.hex())
            continue
        residual, basis = decode(files[0], limits=OWN), from_tensors(decode(files[1], limits=OWN))
        turns = station.recipe.init != "keep"  # kept factors are trained from version to version, and never turned
        for name, value in (rebased(residual, basis, start) if turns else residual).items():
            total[name] = total[name] + value if name in total else value
    return total


def _kept(home: Home, data: bytes) -> bytes:
    """Put *data* on the disk; return its SHA-256."""
    digest = sha256(data).digest()
    store(data, home.blob(digest))
    return digest


def _read(home: Home, digest: bytes) -> bytes | None:
    """Return the bytes with that SHA-256, or None where they are not here any more."""
    path = home.blob(digest)
    data = path.read_bytes() if path.exists() else b""
    return data if sha256(data).digest() == digest else None
