"""Whatever a coordinator says in a sum that is not so is refused by a name, and the client is out, its secrets gone."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest

import forgeries as forged
from cohorts import Remembered
from lying import Told, first, recorded, refused, telling
from potluck.client.secure.phases import TRANSITIONS, Phase
from potluck.wire.secure.agreeing import public_of
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason

ALL = (
    (forged.empty, Reason.MALFORMED),
    (forged.cut, Reason.MALFORMED),
    (forged.longer, Reason.MALFORMED),
    (forged.huge, Reason.TOO_LARGE),
)
FORGED = ((forged.bit_flipped, Reason.BAD_SIGNATURE), (forged.of_another_sum, Reason.BAD_SIGNATURE))
FAULTS: Mapping[Step, tuple[tuple[Callable[[Told], None], Reason], ...]] = MappingProxyType(
    {
        Step.OPEN: (
            *ALL,
            (forged.bit_flipped, Reason.BAD_SIGNATURE),
            (forged.signed_by_a_stranger, Reason.BAD_SIGNATURE),
            (forged.altered_parameters, Reason.BAD_SIGNATURE),
            (forged.signed_nonsense, Reason.MALFORMED),
        ),
        Step.ADVERTISE: (
            *ALL,
            *FORGED,
            (forged.unsorted, Reason.BAD_ROSTER),
            (forged.twice, Reason.BAD_ROSTER),
            (forged.renamed, Reason.BAD_ROSTER),
            (forged.keys_of_the_coordinator, Reason.BAD_SIGNATURE),
            (forged.keys_swapped, Reason.BAD_SIGNATURE),
            (forged.my_keys_swapped, Reason.BAD_SIGNATURE),
            (forged.entry_of_another_sum, Reason.BAD_SIGNATURE),
            (forged.my_key_taken, Reason.WEAK_KEY),
            (forged.one_key_for_both, Reason.WEAK_KEY),
            (forged.low_order_channel, Reason.WEAK_KEY),
            (forged.low_order_mask, Reason.WEAK_KEY),
            (forged.made_up, Reason.NOT_A_MEMBER),
            (forged.without_me, Reason.OWN_ENTRY),
            (forged.my_older_keys, Reason.OWN_ENTRY),
            (forged.few, Reason.SMALL_COHORT),
            (forged.more_than_agreed, Reason.BAD_ROSTER),
            (forged.more_than_can_be, Reason.MALFORMED),
        ),
        Step.SHARE: (
            *ALL,
            (forged.of_another_sum, Reason.BAD_SHARE),
            (forged.boxes_exchanged, Reason.BAD_SHARE),
            (forged.for_another, Reason.BAD_SHARE),
            (forged.a_box_less, Reason.MALFORMED),
            (forged.delivered_without_me, Reason.BAD_LIST),
            (forged.delivered_by_nobody, Reason.BAD_LIST),
            (forged.few_delivered, Reason.SMALL_COHORT),
        ),
        Step.MASK: (
            *ALL,
            *FORGED,
            (forged.another_list, Reason.BAD_SIGNATURE),
            (forged.survived_without_me, Reason.BAD_LIST),
            (forged.survived_from_nowhere, Reason.BAD_LIST),
            (forged.few_survived, Reason.SMALL_COHORT),
        ),
        Step.AGREE: (
            *ALL,
            *FORGED,
            (forged.too_few_agree, Reason.NO_CONSENSUS),
            (forged.one_signs_for_all, Reason.BAD_SIGNATURE),
            (forged.one_counts_twice, Reason.MALFORMED),
            (forged.a_signature_less, Reason.MALFORMED),
            (forged.nobody_agrees, Reason.BAD_LIST),
        ),
        Step.UNMASK: (
            *ALL,
            *FORGED,
            (forged.another_end, Reason.BAD_SIGNATURE),
            (forged.an_end_of_no_name, Reason.MALFORMED),
            (forged.a_failure_with_a_sum, Reason.MALFORMED),
        ),
    }
)
CASES = [(step, fault, reason) for step, faults in FAULTS.items() for fault, reason in faults]


@pytest.mark.parametrize(("step", "fault", "reason"), CASES, ids=lambda one: getattr(one, "__name__", None))
def test_a_faulty_message_is_refused_and_ends_the_sum_for_this_client(step: Step, fault, reason: Reason):
    """What it would have said next it never says: the true message afterwards comes too late."""
    told = telling(step)
    true, secrets = told.message, told.victim._secrets  # noqa: SLF001 - what must be gone
    kept = [] if secrets is None else [secrets.channel, secrets.mask, secrets.seed, *secrets.of_seeds.values()]
    fault(told)

    assert refused(lambda: told.victim.take(step, told.message)) is reason
    assert told.victim.phase is Phase.LEFT
    assert not any(map(any, kept))
    assert told.victim._secrets is told.victim._words is None  # noqa: SLF001
    assert refused(lambda: told.victim.take(step, true)) in {Reason.OUT_OF_ORDER, Reason.SECOND_LIST}


@pytest.mark.parametrize("key", forged.LOW_ORDER, ids=lambda key: key.hex()[:4])
def test_a_key_that_agrees_on_nothing_is_refused_before_anything_is_claimed(key: bytes):
    kept = Remembered()
    told = telling(Step.ADVERTISE, kept)
    forged.accomplice(told, key, public_of(b"\x11" * 32))

    assert refused(lambda: told.victim.take(Step.ADVERTISE, told.message)) is Reason.WEAK_KEY
    assert kept.claims == []


PHASES = (Phase.WAITING, Phase.ADVERTISED, Phase.SHARED, Phase.MASKED, Phase.AGREED, Phase.SPENT, Phase.DONE)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
@pytest.mark.parametrize("step", Step, ids=lambda step: step.name)
def test_every_message_in_every_phase_is_taken_or_refused_as_the_table_says(phase: Phase, step: Step):
    """All of them are true ones of this very sum: only their moment differs."""
    one = first()
    for before in list(Step)[: 3 if phase is Phase.LEFT else PHASES.index(phase)]:
        one.take(before, recorded().heard[before])
    if phase is Phase.LEFT:
        one.leave()
    assert one.phase is phase

    if (phase, step) in TRANSITIONS:
        one.take(step, recorded().heard[step])
        assert one.phase is TRANSITIONS[phase, step]
        return
    second = step is Step.MASK and phase in (Phase.AGREED, Phase.SPENT)
    assert refused(lambda: one.take(step, recorded().heard[step])) is (
        Reason.SECOND_LIST if second else Reason.OUT_OF_ORDER
    )
    assert one.phase is (Phase.DONE if phase is Phase.DONE else Phase.LEFT)
