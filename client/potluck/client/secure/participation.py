"""One client in one sum: a message in, a message out, or a refusal that ends it and destroys its secrets."""

from dataclasses import dataclass
from typing import final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from potluck.aggregation.secure.ring import Words
from potluck.client.secure.phases import Phase
from potluck.client.secure.policy import Policy
from potluck.client.secure.used import UsedSums
from potluck.wire.secure.messages import Step
from potluck.wire.secure.roster import Register


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """Who the client is in the run, and what it keeps and asks."""

    key: Ed25519PrivateKey
    certificate: bytes
    """Empty where the run has no registrar."""
    register: Register
    used: UsedSums


@final
@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a client sends."""

    step: Step
    message: bytes
    vector: NDArray[np.uint8] | None = None
    """The masked vector, packed, with a message of step MASK."""


@final
class Participation:
    """The client's half of a sum.  Not thread-safe.

    *words* are the update as quantised returned it, with the lanes behind it.  They are masked where they lie: from
    then on only the masked ones exist.  *contribution* names the update (see UsedSums).
    """

    def __init__(self, standing: Standing, policy: Policy, words: Words, contribution: bytes) -> None:
        raise NotImplementedError

    @property
    def phase(self) -> Phase:
        """Where this client is in the sum."""
        raise NotImplementedError

    @property
    def sid(self) -> bytes:
        """The sum's 32-byte name; empty before it was opened."""
        raise NotImplementedError

    @property
    def notes(self) -> tuple[str, ...]:
        """What the owner should know although it was allowed."""
        raise NotImplementedError

    def take(self, step: Step, message: bytes) -> Outgoing | None:
        """Take the coordinator's message of *step* and return the answer; None after the last.

        Raises:
            SumRefusal: the message was refused.  The client is out of the sum and its secrets are gone.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """Leave the sum and destroy the secrets; without effect the second time."""
        raise NotImplementedError
