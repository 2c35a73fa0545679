"""What a sum comes to."""

import hashlib
from dataclasses import dataclass
from typing import final

from potluck.aggregation.lowrank import Floats
from potluck.aggregation.secure.lanes import LOSS_STEPS
from potluck.aggregation.secure.ring import Words, packed
from potluck.aggregation.secure.sanity import decoded
from potluck.coordinator.secure.unmasking import Revealed, Suspect
from potluck.wire.secure.parameters import Terms
from potluck.wire.secure.signatures import survivors_hash


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What the lanes of a sum say about its cohort, all of it together."""

    count: int
    weight: int
    clipped: int
    loss: float | None
    """Mean loss by weight; None where the run does not report it."""
    tokens: int


@final
@dataclass(frozen=True, slots=True)
class Summed:
    """A sum, and what a log entry about it holds."""

    total: Floats
    """Σ of the updates of all survivors (of w/W·x where weighted), float64, without the lanes."""
    weight: float
    """What to divide it by for the mean: the count, or Σw/W."""
    tally: Tally
    cohort: tuple[bytes, ...]
    """Identity keys of all survivors, in the order of the roster."""
    roster_hash: bytes
    survivors_hash: bytes
    digest: bytes
    """SHA-256 of the packed sum, lanes included."""
    suspects: tuple[Suspect, ...]


def summed(
    words: Words, terms: Terms, known: Revealed, suspects: tuple[Suspect, ...], *, noised: bool = False
) -> Summed:
    """Return what the sum without its masks comes to.  *noised*: it is told of with noise only.

    Raises:
        BadUpdate: it cannot be of honest updates.
    """
    digest = hashlib.sha256(packed(words, terms.bits).data).digest()
    read = decoded(words, len(known.survivors), terms.ring, terms.max_weight, noised=noised)
    lanes = read.lanes
    loss = lanes.loss / (LOSS_STEPS * lanes.weight) if terms.reports_loss else None
    return Summed(
        read.total,
        read.weight,
        Tally(lanes.count, lanes.weight, lanes.clipped, loss, lanes.tokens),
        tuple(known.roster.at(j).public_key for j in known.survivors),
        known.roster.hash,
        survivors_hash(known.sid, known.roster.hash, known.survivors),
        digest,
        suspects,
    )
