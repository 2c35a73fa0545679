"""The seam between the session, which knows the protocol, and a trainer, which knows models."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from potluck.client.account import Account
from potluck.wire.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class Job:
    """All that a trainer needs for one lease.  The same lease gives the same job, also after a restart."""

    recipe: Recipe
    adapter: Path | None  # the shared adapter as it was downloaded and verified; None at version 0
    version: int
    seed: int  # for the start's fresh rows: the same for every lease of one version
    order: int  # for the order of samples: of this client and version, and where updates are summed of this lease
    data: Path
    folder: Path  # for checkpoints; removed once the update is sealed, or the task over
    threads: int
    account: Account | None = None  # what a round that spends the owner's privacy is paid from


def order_of(client_id: str, seed: int, secret: bytes = b"") -> int:
    """Return what draws the order of samples: of this client and this version, so a lease given again repeats it.

    With a *secret* it is repeated by whoever has that, too, and by nobody else.
    """
    return int.from_bytes(hashlib.sha256(f"potluck/order/{client_id}/{seed}".encode() + secret).digest()[:8])


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What came out.  *deltas* are trained minus start, named and shaped as the recipe's manifest says, float32."""

    deltas: Mapping[str, NDArray[np.float32]]
    examples: int
    steps: int
    tokens: int
    loss_before: float = 0.0  # nats per token on the client's own held-out text; 0 if unknown
    loss_after: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Stride:
    """Where training is, after a step."""

    done: int
    total: int
    loss: float | None = None


class Word(Enum):
    """The answer to a step."""

    GO = "take the next step"
    SUSPEND = "checkpoint, free the memory, return None; you will be called again for the same job"
    STOP = "the work is not needed any more: return None"


class Trainer(Protocol):
    """Something that trains.  May be called again for a job after a suspend, a crash or a restart."""

    def prepare(self, job: Job) -> None:
        """Load what the job needs and try one step that changes nothing, so that what does not fit fails here.

        Raises:
            PotluckError: the base model, the adapter, the data or the machine does not fit.
        """

    def train(self, job: Job, on_step: Callable[[Stride], Word]) -> Trained | None:
        """Train from the last checkpoint in job.folder, or from the start; ask *on_step* after every step.

        Returns None after SUSPEND (checkpoint written and fsynced) or STOP.  A job whose last step was taken returns
        its result again at once: the program may be killed before the result is in the outbox.
        """
