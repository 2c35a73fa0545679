"""A coordinator that tells clients different lists of survivors, with as many of them on its side as may be."""

import numpy as np

from cohorts import Cohort, cohort, key_of, public
from lying import survivors
from mutants import Rng, mutated, pick
from potluck.aggregation.secure.thresholds import most_corrupt, threshold
from potluck.client.secure.phases import Phase
from potluck.wire.secure.messages import Agreement, Agreements, Openings, Step
from potluck.wire.secure.reasons import SumRefusal
from potluck.wire.secure.roster import Roster
from potluck.wire.secure.signatures import Tag, signed, survivors_hash
from wild_sums import MOST, TERMS_OF_ALL, Seen, breach

Positions = tuple[int, ...]


def wild_lie(seed: int, seen: Seen) -> None:
    """Play a sum up to its masked vectors, and lie from there on: at most one list is ever answered for."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, MOST + 1))
    run = cohort(size, TERMS_OF_ALL, random=rng.bytes)
    run.run(until=Step.MASK)
    roster = run.sum._roster  # noqa: SLF001 - what the coordinator has
    places = {roster.position_of(public(key_of(number))): number for number in run.clients}
    liars = set(rng.permutation(size)[: most_corrupt(size, "1/3")].tolist())
    lists = [_some(rng, tuple(places)) for _ in range(3)]
    agreed: dict[Positions, dict[int, bytes]] = {positions: {} for positions in lists}
    signed_by: dict[int, Positions] = {}
    for place, number in places.items():
        for positions in lists if number in liars else [pick(rng, lists)]:
            if signature := _agreed(run, roster, number, positions, seen, liar=number in liars):
                agreed[positions][place] = signature
                signed_by[number] = positions
    answered = {
        signed_by[number]
        for number, one in run.clients.items()
        if number not in liars and one.phase is Phase.AGREED and _released(rng, run, number, agreed, seen)
    }
    if len(answered) > 1:
        raise breach(f"shares were given for {answered}")
    for positions in answered:
        if len(agreed[positions]) < threshold(size, "1/3"):
            raise breach(f"shares were given for {len(agreed[positions])} of {size} signatures")
    seen.ended[f"{len(answered)} of three lists answered for"] += 1


def _some(rng: Rng, places: Positions) -> Positions:
    """Return all places, or all but one or two."""
    gone = rng.permutation(places)[: int(rng.integers(3))].tolist()
    return tuple(sorted(set(places) - set(gone)))


def _agreed(run: Cohort, roster: Roster, number: int, positions: Positions, seen: Seen, *, liar: bool) -> bytes:
    """Return a client's signature over a list, empty where it refuses it."""
    if liar:
        return signed(key_of(number), Tag.AGREE, survivors_hash(run.sum.sid, roster.hash, positions))
    seen.messages["client"] += 1
    try:
        answer = run.clients[number].take(Step.MASK, survivors(run.sum.sid, roster, positions))
    except SumRefusal as refusal:
        seen.refused["client", refusal.reason.name] += 1
        return b""
    return b"" if answer is None else Agreement.parse(answer.message).signature


def _released(rng: Rng, run: Cohort, number: int, agreed: dict[Positions, dict[int, bytes]], seen: Seen) -> bool:
    """Show a client signatures, of this list or of that, all or some or none of them good; whether it gives shares."""
    signatures = dict(pick(rng, list(agreed.values())))
    if rng.random() < 0.3:
        signatures |= pick(rng, list(agreed.values()))
    for place in list(signatures):
        if rng.random() < 0.05:
            del signatures[place]
    places = sorted(signatures)
    message = Agreements(tuple(places), tuple(signatures[j] for j in places)).to_bytes()
    message = mutated(rng, message) if rng.random() < 0.1 else message
    seen.messages["client"] += 1
    try:
        answer = run.clients[number].take(Step.AGREE, message)
    except SumRefusal as refusal:
        seen.refused["client", refusal.reason.name] += 1
        return False
    seen.released += 1
    return answer is not None and bool(Openings.parse(answer.message).shares)
