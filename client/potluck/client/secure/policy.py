"""What a client insists on in a sum, whatever the coordinator proposes."""

from dataclasses import dataclass
from typing import Final, final

from potluck.client.secure.used import UsedSums
from potluck.wire.secure.parameters import MAX_DEADLINE_S, Parameters, Terms, same_terms
from potluck.wire.secure.reasons import Reason, SumRefusal

SMALLEST: Final = 5
"""Fewer are never summed."""
SMALL: Final = 10
"""Fewer are summed only where the owner allowed small groups."""
SUBTRACTED: Final = (
    "what you train from one adapter is much alike each time, so that whoever has several such sums can subtract them "
    "from each other and come near to your update by itself; only noise (differential privacy) helps against that"
)


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's own terms; nothing here is negotiated."""

    terms: Terms
    """Worked out from the recipe that the owner consented to, and equal to what is proposed, field by field."""
    adapter: bytes
    """SHA-256 of the adapter that the update started from."""
    coordinator_key: bytes
    """Ed25519, 32 bytes: the key in the invite."""
    small_groups: bool = False
    """Whether cohorts of five to nine are allowed."""
    strict: bool = False
    """Refuse, rather than note, a sum that differs by a few clients from one before."""


def check(policy: Policy, parameters: Parameters) -> None:
    """Compare what the coordinator proposes with what the owner agreed to.

    Raises:
        SumRefusal: TERMS, SMALL_COHORT, ADAPTER or DEADLINE.
    """
    same_terms(parameters.terms, policy.terms)
    floor = floor_of(policy)
    if parameters.terms.cohort_min < floor:
        raise SumRefusal(
            f"from {parameters.terms.cohort_min} clients on, at least {floor}",
            reason=Reason.SMALL_COHORT,
            fix="allow small groups, down to 5, if you know and trust the others",
        )
    if parameters.adapters != (policy.adapter,):  # with two in one sum, one could be made to add nothing
        raise SumRefusal(
            policy.adapter.hex()[:16] + "…", reason=Reason.ADAPTER, fix="wait for a sum of the version you trained on"
        )
    if not all(0 < seconds <= MAX_DEADLINE_S for seconds in parameters.deadlines_s):
        raise SumRefusal(
            f"{parameters.deadlines_s} s", reason=Reason.DEADLINE, fix=f"from 1 to {MAX_DEADLINE_S} s a step"
        )


def floor_of(policy: Policy) -> int:
    """Return the fewest clients that this owner lets be summed."""
    return max(SMALLEST if policy.small_groups else SMALL, policy.terms.cohort_min)


def start_of(policy: Policy) -> bytes:
    """Return what names the start of an update, 32 bytes: its adapter, or at version 0 what it was consented to."""
    return policy.adapter if any(policy.adapter) else policy.terms.base


def differing(policy: Policy, cohort: frozenset[bytes], used: UsedSums) -> tuple[str, ...]:
    """Return notes for the owner where this sum and those before it tell more together than each of them.

    Two sums over almost the same clients differ by the updates of the few.  In a small group that keeps together this
    happens all the time, so that it is noted; a strict owner does not take part.  And sums of one start have nearly the
    same update of each client, whoever else is in them: a lost sum is made up for so.

    Source: Lam et al. 2021, arXiv:2106.03328.

    Raises:
        SumRefusal: DIFFERENCING, where the owner is strict.
    """
    near = [len(cohort ^ other) for other in used.cohorts() if 0 < len(cohort ^ other) < floor_of(policy) / 2]
    told = f"{min(near)} clients differ from a sum before" if near else ""
    if told and policy.strict:
        raise SumRefusal(told, reason=Reason.DIFFERENCING, fix="wait until more clients take part")
    same = used.starts().count(start_of(policy))
    again = f"{same} of your sums before started from the same shared adapter as this one: {SUBTRACTED}" if same else ""
    return tuple(note for note in (told, again) if note)
