"""Taking the masks off a sum: which there are, from shares of which some may be wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from potluck.aggregation.errors import BadUpdate
from potluck.aggregation.secure.shamir import Decoder
from potluck.wire.secure.agreeing import agreed, commitment, mask_key, public_of
from potluck.wire.secure.masks import Signed
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Roster


@final
@dataclass(frozen=True, slots=True)
class Suspect:
    """A share that does not fit the others."""

    holder: bytes
    """Identity key of the client that sent it on; empty where all shares of a dealer are of no use."""
    dealer: bytes
    """Identity key of the client that made it.  From one share it cannot be told which of the two is at fault."""
    proven: bool = False
    """Whether it is the dealer: as many others as the terms reckon with could not make it look so by wrong shares."""


@final
@dataclass(frozen=True, slots=True)
class Revealed:
    """What is known once the shares are in."""

    sid: bytes
    roster: Roster
    threshold: int
    delivered: tuple[int, ...]
    survivors: tuple[int, ...]
    commitments: Mapping[int, bytes]
    openings: Mapping[int, Mapping[int, int]]
    """By the position of the client that sent shares, by the position of the one that dealt them."""
    corrupt: int
    """Clients that may be lying, at the most."""


@final
class Undecodable(SumRefusal):
    """A dealer whose shares do not give a secret."""

    def __init__(self, message: str, *, suspect: Suspect = Suspect(b"", b""), fix: str = "") -> None:
        super().__init__(message, reason=Reason.DEALER, fix=fix)
        self.suspect = suspect


def masks_of(known: Revealed) -> tuple[list[Signed], tuple[Suspect, ...]]:
    """Return every mask that is still in the sum, signed so that adding takes it off, and shares that do not fit.

    Of a survivor it is its own mask; of a client that dropped out, the masks that all survivors have with it.

    Raises:
        Undecodable: a client's shares do not give the secret that it committed to.
    """
    decoder = Decoder(tuple(sorted(known.openings)), known.threshold)
    masks: list[Signed] = []
    suspects: list[Suspect] = []
    for j in known.delivered:
        secret, odd = _secret(known, decoder, j)
        suspects += [Suspect(known.roster.at(i).public_key, known.roster.at(j).public_key) for i in odd]
        if j in known.survivors:
            masks.append((secret, -1))
        else:
            masks += _pairs(known, j, secret)
    return masks, tuple(suspects)


def _secret(known: Revealed, decoder: Decoder, j: int) -> tuple[bytes, tuple[int, ...]]:
    """Return the secret of the client at *j*: of a survivor its seed, otherwise its mask key."""
    dealer = known.roster.at(j)

    def fits(secret: bytes) -> bool:
        if j in known.survivors:
            return commitment(known.sid, secret) == known.commitments[j]
        return public_of(secret) == dealer.mask_key

    try:
        found = decoder.recovered({i: shares[j] for i, shares in known.openings.items()}, fits)
    except BadUpdate as error:
        suspect = Suspect(b"", dealer.public_key, proven=decoder.finds_despite(known.corrupt))
        raise Undecodable(
            f"client {j}, {error}", suspect=suspect, fix="sum again, in a new version, without this client"
        ) from None
    return found.secret, found.odd


def _pairs(known: Revealed, j: int, secret: bytes) -> list[Signed]:
    """Return the masks that survivors have with the client at *j*, which dropped out, the other way round."""
    gone = known.roster.at(j)
    masks = []
    for i in known.survivors:
        peer = known.roster.at(i)
        key = mask_key(agreed(secret, peer.mask_key), known.sid, gone.node, peer.node)
        masks.append((key, -1 if i < j else 1))
    return masks
