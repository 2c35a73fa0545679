"""A secure sum is the plain sum, whoever drops out whenever; or it ends and has revealed nothing."""

import hashlib
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohorts import STEPS, TERMS, client, cohort, key_of, plain_sum, public, words_of
from potluck.aggregation.secure.ring import WIDTHS, centred, packed
from potluck.aggregation.secure.thresholds import may_drop, threshold
from potluck.client.secure.phases import Phase as ClientPhase
from potluck.coordinator.secure.phases import IllegalEvent, Phase
from potluck.wire.secure.masks import add_masks, mask_words
from potluck.wire.secure.messages import Step
from potluck.wire.secure.reasons import Reason, SumRefusal


def check(size: int, drops: dict[int, Step], terms=TERMS) -> None:
    """Run a sum with these dropouts: bit for bit NumPy's, or an end that says why."""
    terms = replace(terms, cohort_min=min(terms.cohort_min, size))
    staying = [sum(drops.get(number, 99) > step for number in range(size)) for step in STEPS]
    joined = staying[0]
    run = cohort(size, terms)

    phase = run.run(drops)

    enough = joined >= terms.cohort_min and min(staying[1:3]) >= max(terms.cohort_min, threshold(joined, "1/3"))
    if not enough or min(staying[3:]) < threshold(joined, "1/3"):
        assert (phase, run.sum.reason) == (Phase.ENDED, Reason.TOO_FEW)
    else:
        survivors = [number for number in range(size) if drops.get(number, 99) > Step.MASK]
        expected = plain_sum(survivors, terms)
        result = run.sum.result()
        assert result.digest == hashlib.sha256(packed(expected, terms.bits).data).digest()
        steps = centred(expected, terms.bits)[: terms.size]
        assert np.array_equal(result.total, steps * terms.ring.step)
        assert set(result.cohort) == {public(key_of(number)) for number in survivors}
        assert (result.tally.count, result.weight) == (len(survivors), len(survivors))
        assert result.tally.tokens == sum(10 + number for number in survivors)


@pytest.mark.parametrize("gone", list(product([None, *STEPS], repeat=2)), ids=str)
def test_every_pair_of_moments_to_drop_out_of_seven(gone):
    check(7, {number: step for number, step in enumerate(gone) if step is not None})


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 6), st.sampled_from(WIDTHS), st.data())
def test_every_pattern_of_dropouts_in_small_cohorts(size: int, bits: int, data):
    """Of five and six clients, each may go at any step; the floor of a client is five."""
    gone = data.draw(st.lists(st.sampled_from([None, *STEPS]), min_size=size, max_size=size))

    check(size, {n: step for n, step in enumerate(gone) if step}, replace(TERMS, bits=bits, size=5))


@pytest.mark.parametrize("size", [100, 128])
def test_thirty_drop_out_of_a_hundred_six_at_each_moment(size: int):
    check(size, {number * 3: STEPS[number % 5] for number in range(30)}, replace(TERMS, size=2_000, cohort_min=10))


@pytest.mark.slow_privacy
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("size", [100, 128])
def test_thirty_drop_out_of_a_hundred_at_each_moment(size: int, step: Step):
    check(size, {number * 3: step for number in range(30)}, replace(TERMS, size=2_000, cohort_min=10))


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASK, Step.AGREE, Step.UNMASK], ids=lambda step: step.name)
def test_at_the_threshold_a_sum_succeeds_and_one_below_it_ends(step: Step):
    for more, phase in ((0, Phase.SUMMED), (1, Phase.ENDED)):
        run = cohort(12)

        assert run.run(dict.fromkeys(range(may_drop(12, "1/3") + more), step)) is phase


def test_below_the_threshold_nothing_is_revealed_and_everybody_is_told():
    """Before the end nobody was asked for a share, and the coordinator lets go of all that it has."""
    run = cohort(12)

    run.run(dict.fromkeys(range(4), Step.AGREE))

    assert run.sum.reason is Reason.TOO_FEW
    assert not [step for step, _ in run.sent if step is Step.UNMASK]
    with pytest.raises(SumRefusal, match="no sum"):
        run.sum.result()
    told = run.sum.message(Step.AGREE, public(key_of(11)))
    run.clients[11].take(Step.UNMASK, told)
    assert run.clients[11].phase is ClientPhase.DONE
    assert run.clients[11].end.reason is Reason.TOO_FEW


def test_everybody_learns_the_hash_of_the_sum():
    run = cohort(6)
    run.run()

    for number, one in run.clients.items():
        one.take(Step.UNMASK, run.sum.message(Step.UNMASK, public(key_of(number))))
        assert (one.end.digest, one.end.count) == (run.sum.result().digest, 6)


def test_a_masked_vector_looks_like_noise():
    """The bits of every masked vector are even, and none has anything in common with what was masked."""
    terms = replace(TERMS, size=20_000)
    run = cohort(6, terms)

    run.run(until=Step.MASK)

    for (step, number), sent in run.sent.items():
        if step is Step.MASK:
            bits = np.unpackbits(sent.vector)
            assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(bits))
            plain = np.unpackbits(packed(words_of(number, terms), 24))
            assert abs((bits == plain).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(bits))


def test_a_sum_without_one_client_is_noise_still():
    """Who takes a vector out of the running sum, or the masks off in part, has noise: all must be there."""
    run = cohort(6)
    run.run(until=Step.MASK)

    before = run.sum._running.copy() & np.uint32(2**24 - 1)  # noqa: SLF001 - what a curious coordinator has

    assert (before != plain_sum(range(6))).mean() > 0.9


def test_threads_take_off_the_same_masks():
    keys = [(bytes([number]) * 32, 1 if number % 2 else -1) for number in range(5)]
    one, three = np.zeros(300_001, np.uint32), np.zeros(300_001, np.uint32)

    add_masks(one, keys)
    add_masks(three, keys, threads=3)

    assert np.array_equal(one, three)
    assert np.array_equal(one[:9], sum(np.uint32(sign % 2**32) * mask_words(key, 9) for key, sign in keys))


def test_weights_are_summed_with_what_they_weigh():
    run = cohort(6, replace(TERMS, bits=32, max_weight=4))

    assert run.run() is Phase.SUMMED
    assert run.sum.result().weight == 6 / 4


def test_a_closed_sum_is_closed():
    run = cohort(6)
    run.run()

    with pytest.raises(IllegalEvent):
        run.sum.close()
    with pytest.raises(IllegalEvent):
        run.sum.cancel()
    with pytest.raises(SumRefusal) as refused:
        run.sum.take(Step.UNMASK, public(key_of(77)), b"")
    assert refused.value.reason is Reason.OVER


def test_a_cancelled_sum_has_no_result():
    run = cohort(6)
    run.run(until=Step.AGREE)

    run.sum.cancel()

    assert (run.sum.phase, run.sum.reason) == (Phase.ENDED, Reason.CANCELLED)
    with pytest.raises(SumRefusal):
        run.sum.result()


def test_each_step_has_its_deadline_and_says_when_all_are_in():
    run = cohort(6, replace(TERMS, cohort_max=6))

    seen = []
    for step in STEPS:
        seen.append((run.sum.deadline_s, run.sum.complete()))
        run.advance(step)
    assert seen == [(60, False), (20, False), (150, False), (15, False), (20, False)]
    assert run.sum.deadline_s == 0


def test_it_says_when_all_are_in():
    run = cohort(6, replace(TERMS, cohort_max=6))
    for number, one in run.clients.items():
        assert not run.sum.complete()
        key = public(key_of(number))
        run.sum.take(Step.ADVERTISE, key, one.take(Step.OPEN, run.sum.message(Step.OPEN, key)).message)

    assert run.sum.complete()
    late = client(6, replace(TERMS, cohort_max=6)).take(Step.OPEN, run.sum.message(Step.OPEN, b""))
    with pytest.raises(SumRefusal) as refused:
        run.sum.take(Step.ADVERTISE, public(key_of(6)), late.message)
    assert refused.value.reason is Reason.FULL
