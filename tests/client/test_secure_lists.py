"""Nobody reveals a sum that not enough others signed, nobody signs two, and what was signed is in no other sum."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from itertools import product
from pathlib import Path

import pytest

from cohorts import COORDINATOR, STEPS, TERMS, Cohort, Remembered, client, cohort, key_of, proposal, public, register
from lying import AGREED, first, refused, survivors, telling
from potluck.aggregation.secure.thresholds import most_corrupt, threshold
from potluck.client.secure.participation import Participation
from potluck.client.secure.phases import Phase
from potluck.client.secure.used import UsedFile
from potluck.coordinator.secure.sums import SecureSum, Site
from potluck.wire.secure.messages import Agreement, Agreements, Openings, Step
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Entry, Roster
from potluck.wire.secure.signatures import Tag, signed, survivors_hash

SIZE = 12
WHOLE = tuple(range(1, SIZE + 1))


class Split(Enum):
    """What a coordinator tells those whose turn it is to agree: the first list to one half, the second to the other."""

    WITHOUT_ONE = WHOLE, WHOLE[:-1]
    WITHOUT_ANOTHER_EACH = WHOLE[:-1], WHOLE[1:]


def told_apart(split: Split) -> tuple[Cohort, Roster, dict[int, tuple[int, ...]], dict[int, bytes]]:
    """Play until half the clients signed one list, and half the other.

    Returns the cohort, its roster, the list that each was told and its signature, by position.
    """
    run = cohort(SIZE)
    run.run(until=Step.MASK)
    roster = roster_of(run)
    told, agreed = {}, {}
    for number, one in run.clients.items():
        place = roster.position_of(public(key_of(number)))
        # who is left out of a list must be told the other one, or it would refuse at once
        fits = [positions for positions in split.value if place in positions]
        told[place] = fits[place % len(fits)]
        answer = one.take(Step.MASK, survivors(run.sum.sid, roster, told[place]))
        agreed[place] = Agreement.parse(answer.message).signature
    return run, roster, told, agreed


def roster_of(run: Cohort) -> Roster:
    return Roster.parse(run.sum.message(Step.ADVERTISE, public(key_of(0))) or b"")


def lie_about(agreed: dict[int, bytes], positions: Sequence[int]) -> bytes:
    return Agreements(tuple(positions), tuple(agreed[j] for j in positions)).to_bytes()


@pytest.mark.parametrize("split", Split, ids=lambda split: split.name)
def test_two_lists_of_survivors_are_agreed_to_by_nobody(split: Split):
    """Each half's signatures are below the threshold, and the other half's are good for the other list alone."""
    run, roster, told, agreed = told_apart(split)
    for number, one in run.clients.items():
        place = roster.position_of(public(key_of(number)))
        same = [j for j in WHOLE if told[j] == told[place]]
        assert len(same) < threshold(SIZE, "1/3")

        everybody = [j for j in WHOLE if j in told[place]]
        believes = same if number % 2 else everybody
        expected = Reason.NO_CONSENSUS if number % 2 else Reason.BAD_SIGNATURE
        assert refused(lambda one=one, said=believes: one.take(Step.AGREE, lie_about(agreed, said))) is expected
        assert one.phase is Phase.LEFT
        assert [update for _, update in one._standing.used.spent] == [b"update %d" % number]  # noqa: SLF001


@pytest.mark.parametrize(("liars", "revealed"), [(4, 0), (6, 6)])
def test_as_many_liars_as_the_terms_reckon_with_reveal_nothing_either(liars: int, revealed: int):
    """Liars sign both lists.  Of twelve four may lie; with six each half of the honest reaches the threshold."""
    run = cohort(SIZE)
    run.run(until=Step.MASK)
    roster, lists = roster_of(run), Split.WITHOUT_ONE.value
    numbers = {roster.position_of(public(key_of(number))): number for number in run.clients}
    agreed: list[dict[int, bytes]] = [{}, {}]
    for place, which in product(WHOLE, (0, 1)):
        if place <= liars:
            payload = survivors_hash(run.sum.sid, roster.hash, lists[which])
            agreed[which][place] = signed(key_of(numbers[place]), Tag.AGREE, payload)
        elif place % 2 == which:
            answer = run.clients[numbers[place]].take(Step.MASK, survivors(run.sum.sid, roster, lists[which]))
            agreed[which][place] = Agreement.parse(answer.message).signature

    answered = 0
    for place in WHOLE[liars:]:
        with suppress(SumRefusal):
            said = lie_about(agreed[place % 2], sorted(agreed[place % 2]))
            answered += run.clients[numbers[place]].take(Step.AGREE, said) is not None
    assert answered == revealed
    assert most_corrupt(SIZE, "1/3") == 4


def test_of_each_client_one_secret_of_two_is_answered_for():
    """Of a survivor the seed, of one that dropped out the mask key: with both its update would lie open."""
    run = cohort(SIZE)
    run.run({0: Step.MASK, 1: Step.MASK}, until=Step.AGREE)
    roster = roster_of(run)
    gone = {roster.position_of(public(key_of(number))) for number in (0, 1)}
    for number in range(2, SIZE):
        one = run.clients[number]
        mine = one._secrets  # noqa: SLF001
        masks, seeds = ({j: bytes(share) for j, share in of.items()} for of in (mine.of_masks, mine.of_seeds))
        answer = one.take(Step.AGREE, run.sum.message(Step.AGREE, public(key_of(number))))
        shares = dict(zip(WHOLE, Openings.parse(answer.message).shares, strict=True))
        assert shares == {j: masks[j] if j in gone else seeds[j] for j in WHOLE}
        assert not mine.of_masks
        assert not mine.of_seeds


def test_who_is_asked_a_second_time_for_shares_has_none():
    told = telling(Step.AGREE)
    assert told.victim.take(Step.AGREE, told.message) is not None
    swapped = survivors(told.sum.sid, told.roster, tuple(j for j in told.roster.positions if j != told.other))

    assert refused(lambda: told.victim.take(Step.AGREE, told.message)) is Reason.OUT_OF_ORDER
    assert told.victim.phase is Phase.LEFT
    assert refused(lambda: told.victim.take(Step.MASK, swapped)) is Reason.OUT_OF_ORDER


@pytest.mark.parametrize("stopped", [Step.MASK, Step.AGREE, Step.UNMASK], ids=lambda step: step.name)
def test_a_process_that_was_started_again_answers_nothing_in_the_same_sum(tmp_path: Path, stopped: Step):
    """It would have new keys, and could be made to answer for two lists of survivors."""
    told = telling(stopped, UsedFile(tmp_path / "sums.txt"))
    told.victim.leave()

    for secrets in (0, 1):  # with the same keys, as if they had been restored, and with new ones
        again = first(UsedFile(tmp_path / "sums.txt"), secrets)
        mine = Entry.parse(again.take(Step.OPEN, told.sum.heard[Step.OPEN]).message)
        told.relist(lambda lines, mine=mine: lines.__setitem__(told.place - 1, mine))
        assert refused(lambda one=again: one.take(Step.ADVERTISE, told.message)) is Reason.USED_SUM
        assert again.phase is Phase.LEFT


def sum_of(clients: dict[int, Participation], nonce: int) -> Cohort:
    return Cohort(SecureSum(proposal(AGREED, nonce), Site(COORDINATOR, register())), clients)


def until_refused(run: Cohort, number: int) -> Reason | None:
    """Play a sum; return why the client *number* left it, if it did."""
    for step in STEPS:
        try:
            run.advance(step)
        except SumRefusal as refusal:
            assert run.clients[number].phase is Phase.LEFT
            return refusal.reason
    return None


def feigned(run: Cohort) -> None:
    """Say that the sum failed although everybody agreed: nobody can tell whether the shares were used."""
    run.sum.cancel()


@pytest.mark.parametrize("ending", [feigned, lambda run: run.sum.close()], ids=["feigned", "too few"])
def test_what_was_signed_once_is_in_no_other_sum_whatever_became_of_the_first(ending: Callable[[Cohort], object]):
    kept = Remembered()
    clients = {number: client(number, AGREED) for number in range(1, 8)}
    before = sum_of({0: client(0, AGREED, kept), **clients}, 0)
    before.run(until=Step.AGREE)
    ending(before)
    before.clients[0].take(Step.UNMASK, before.sum.message(Step.UNMASK, public(key_of(0))))
    assert before.clients[0].phase is Phase.DONE
    assert before.clients[0].end.reason in {Reason.CANCELLED, Reason.TOO_FEW}

    again = sum_of({0: client(0, AGREED, kept), **{n: client(n, AGREED) for n in range(1, 8)}}, 1)
    assert until_refused(again, 0) is Reason.SPENT


@pytest.mark.parametrize(("differ", "strict"), [(1, False), (1, True), (2, True), (3, True)])
def test_almost_the_same_clients_again_are_noted_and_refused_by_who_is_strict(differ: int, *, strict: bool):
    """Of twelve with a floor of five a difference of one or two is near; three are not."""
    kept, terms = Remembered(), replace(TERMS, cohort_max=SIZE)
    near = differ < 5 / 2
    for version, numbers in enumerate([range(SIZE), range(SIZE - differ)]):
        clients = {n: client(n, terms) for n in numbers if n}
        one = client(0, terms, kept, strict=strict)
        one._contribution = b"version %d" % version  # noqa: SLF001 - updates of two versions
        run = Cohort(SecureSum(proposal(terms, version), Site(COORDINATOR, register())), {0: one, **clients})
        reason = until_refused(run, 0)
    assert reason is (Reason.DIFFERENCING if strict and near else None)
    near_notes = tuple(note for note in one.notes if "differ from" in note)
    assert near_notes == ((f"{differ} clients differ from a sum before",) if near and not strict else ())
    assert len(kept.spent) == (1 if strict and near else 2)
