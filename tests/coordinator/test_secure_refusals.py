"""Every message that is malformed, out of order, repeated or forged is refused by a name, and changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from cohorts import COORDINATOR, STEPS, TERMS, Cohort, cohort, key_of, public
from lying import refused
from potluck.coordinator.secure.phases import Phase
from potluck.wire.secure.encoding import enc
from potluck.wire.secure.messages import Masked, Openings, Shares, Step
from potluck.wire.secure.reasons import Reason
from potluck.wire.secure.registers import certificate
from potluck.wire.secure.roster import Entry, entry
from potluck.wire.secure.signatures import Tag, signed


@dataclass
class Sent:
    """What the first client is about to send in a step."""

    cohort: Cohort
    message: bytes
    vector: np.ndarray | None
    sender: bytes = public(key_of(0))


def bits_flipped(sent: Sent) -> None:
    sent.message = sent.message[:-1] + bytes([sent.message[-1] ^ 1])


def cut(sent: Sent) -> None:
    sent.message = sent.message[:-1]


def longer(sent: Sent) -> None:
    sent.message += b"\0"


def huge(sent: Sent) -> None:
    sent.message = bytes(1 << 19)


def strange(sent: Sent) -> None:
    sent.sender = public(key_of(99))


def of_another(sent: Sent) -> None:
    sent.sender = public(key_of(1))


def low_order(sent: Sent) -> None:
    mine = Entry.parse(sent.message)
    sent.message = entry(key_of(0), sent.cohort.sum.sid, mine.certificate, bytes(32), mine.mask_key).to_bytes()


def same_keys(sent: Sent) -> None:
    mine = Entry.parse(sent.message)
    sent.message = entry(
        key_of(0), sent.cohort.sum.sid, mine.certificate, mine.channel_key, mine.channel_key
    ).to_bytes()


def no_member(sent: Sent) -> None:
    sent.message = replace(Entry.parse(sent.message), certificate=b"").to_bytes()


def member_of_another_run(sent: Sent) -> None:
    word = certificate(COORDINATOR, "another run", public(key_of(0)))
    sent.message = replace(Entry.parse(sent.message), certificate=word).to_bytes()


def of_another_sum(sent: Sent) -> None:
    mine = Entry.parse(sent.message)
    sent.message = entry(key_of(0), b"\1" * 32, mine.certificate, mine.channel_key, mine.mask_key).to_bytes()


def one_share_less(sent: Sent) -> None:
    found = Shares.parse(sent.message)
    sent.message = replace(found, sealed=found.sealed[1:]).to_bytes()


def another_commitment(sent: Sent) -> None:
    sent.message = replace(Shares.parse(sent.message), commitment=bytes(32)).to_bytes()


def no_vector(sent: Sent) -> None:
    sent.vector = None


def short_vector(sent: Sent) -> None:
    sent.vector = sent.vector[:-1].copy()


def long_vector(sent: Sent) -> None:
    sent.vector = np.append(sent.vector, np.uint8(0))


def garbage_vector(sent: Sent) -> None:
    sent.vector = sent.vector ^ np.uint8(255)


def signed_for_sharing(sent: Sent) -> None:
    digest = Masked.parse(sent.message).digest
    sent.message = Masked(digest, signed(key_of(0), Tag.SHARE, digest)).to_bytes()


def one_opening_more(sent: Sent) -> None:
    sent.message = Openings((*Openings.parse(sent.message).shares, bytes(33))).to_bytes()


ALL = (
    (cut, Reason.MALFORMED),
    (longer, Reason.MALFORMED),
    (huge, Reason.TOO_LARGE),
    (strange, Reason.STRANGER),
)
FAULTS: dict[Step, tuple[tuple[Callable[[Sent], None], Reason], ...]] = {
    Step.ADVERTISE: (
        *ALL,
        (bits_flipped, Reason.BAD_SIGNATURE),
        (of_another, Reason.STRANGER),
        (low_order, Reason.WEAK_KEY),
        (same_keys, Reason.WEAK_KEY),
        (no_member, Reason.NOT_A_MEMBER),
        (member_of_another_run, Reason.NOT_A_MEMBER),
        (of_another_sum, Reason.BAD_SIGNATURE),
    ),
    Step.SHARE: (
        *ALL,
        (bits_flipped, Reason.BAD_SIGNATURE),
        (of_another, Reason.BAD_SIGNATURE),
        (one_share_less, Reason.MALFORMED),
        (another_commitment, Reason.BAD_SIGNATURE),
    ),
    Step.MASK: (
        *ALL,
        (bits_flipped, Reason.BAD_SIGNATURE),
        (of_another, Reason.BAD_SIGNATURE),
        (no_vector, Reason.WRONG_LENGTH),
        (short_vector, Reason.WRONG_LENGTH),
        (long_vector, Reason.WRONG_LENGTH),
        (garbage_vector, Reason.WRONG_DIGEST),
        (signed_for_sharing, Reason.BAD_SIGNATURE),
    ),
    Step.AGREE: (*ALL, (bits_flipped, Reason.BAD_SIGNATURE), (of_another, Reason.BAD_SIGNATURE)),
    Step.UNMASK: (*ALL, (one_opening_more, Reason.MALFORMED)),
}
CASES = [(step, fault, reason) for step, faults in FAULTS.items() for fault, reason in faults]


def sending(step: Step) -> Sent:
    """Return a cohort in *step*, with the first client's message ready."""
    run = cohort(6)
    run.run(until=Step(step - 1))
    answer = run.clients[0].take(Step(step - 1), run.sum.message(Step(step - 1), public(key_of(0))))
    return Sent(run, answer.message, answer.vector)


def give(sent: Sent, step: Step) -> None:
    sent.cohort.sum.take(step, sent.sender, sent.message, None if sent.vector is None else sent.vector.data)


@pytest.mark.parametrize(("step", "fault", "reason"), CASES, ids=lambda one: getattr(one, "__name__", None))
def test_a_faulty_message_is_refused_and_the_right_one_still_counts(step: Step, fault, reason: Reason):
    """What was refused changed nothing: the sum goes on, and comes to what it would have."""
    sent = sending(step)
    right = replace(sent)
    fault(sent)

    assert refused(lambda: give(sent, step)) is reason
    give(right, step)
    del right.cohort.clients[0]
    right.cohort.advance(step)
    for later in STEPS[step:]:
        right.cohort.advance(later)  # the first client has dropped out by then
    assert right.cohort.sum.phase is Phase.SUMMED


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_the_same_message_twice_is_named_so_and_another_one_contradicts_it(step: Step):
    sent = sending(step)
    give(sent, step)

    assert refused(lambda: give(sent, step)) is Reason.REPEATED
    bits_flipped(sent)
    assert refused(lambda: give(sent, step)) is Reason.CONTRADICTED


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_message_of_another_step_is_refused(step: Step):
    sent = sending(step)

    for other in Step:
        if other is not step:
            before = other in STEPS[: step - 1]
            expected = {Reason.REPEATED, Reason.CONTRADICTED} if before else {Reason.OUT_OF_ORDER}
            assert refused(lambda other=other: give(sent, other)) in expected


def test_who_dropped_out_is_late():
    run = cohort(8)
    run.run({0: Step.SHARE, 1: Step.MASK}, until=Step.MASK)

    for number in (0, 1):
        assert refused(lambda n=number: run.sum.message(Step.MASK, public(key_of(n)))) is Reason.LATE
        assert refused(lambda n=number: run.sum.take(Step.AGREE, public(key_of(n)), enc(bytes(64)))) is Reason.LATE
    assert refused(lambda: run.sum.take(Step.SHARE, public(key_of(0)), b"")) is Reason.LATE
    assert refused(lambda: run.sum.message(Step.MASK, public(key_of(50)))) is Reason.STRANGER
    assert run.sum.message(Step.UNMASK, public(key_of(5))) is None


def test_a_vector_out_of_bounds_ends_the_cohort():
    """A client may add anything in the ring; what no honest cohort comes to is dropped whole."""
    run = cohort(6)
    run.clients[0]._words[2] = np.uint32(1 << 22)  # noqa: SLF001 - a client that does not clip

    assert run.run() is Phase.ENDED
    assert run.sum.reason is Reason.INSANE


def test_two_clients_with_one_key_are_not_both_in():
    run = cohort(5)
    first = run.clients[0].take(Step.OPEN, run.sum.message(Step.OPEN, b"")).message
    run.sum.take(Step.ADVERTISE, public(key_of(0)), first)
    theirs = Entry.parse(first)
    word = certificate(COORDINATOR, TERMS.run_id, public(key_of(1)))

    copied = entry(key_of(1), run.sum.sid, word, public(key_of(5)), theirs.mask_key).to_bytes()

    assert refused(lambda: run.sum.take(Step.ADVERTISE, public(key_of(1)), copied)) is Reason.WEAK_KEY
