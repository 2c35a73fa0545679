"""What the weight steps refuse, at the exact boundary, and that they say with which numbers."""

import numpy as np
import pytest

from ballots import ballot_of, cast, facts
from potluck.aggregation import BadUpdate
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.preconditions import inner_products

LEAST = {
    "norm_bound": (2, 1),
    "arc": (2, 1),
    "centered_clip": (2, 1),
    "nnm": (2, 1),
    "geomedian": (2, 1),
    "mda": (2, 1),
    "dnc": (2, 1),
    "cosine": (2, 1),
    "krum": (2, 3),
    "multikrum": (2, 3),
    "bulyan_selection": (4, 3),
}


def rows_of(n: int):
    return np.random.default_rng(n).normal(size=(n, 12)) + 1


@pytest.mark.parametrize("f", [1, 2, 3])
@pytest.mark.parametrize("name", LEAST)
def test_a_step_takes_exactly_as_few_vectors_as_it_promises_for(name: str, f: int):
    """One fewer and the paper's proof is gone: refused with both numbers, and with what would do."""
    slope, more = LEAST[name]
    least = slope * f + more

    cast(ballot_of(rows_of(least), facts(least, f=f)), [name])
    with pytest.raises(BadUpdate, match=f"^{name} got {least - 1} vectors, .* {f} .* at least {least}") as refused:
        cast(ballot_of(rows_of(least - 1), facts(least - 1, f=f)), [name])

    assert refused.value.__notes__ == [f"fix: wait for 1 more, or set f to {(least - 1 - more) // slope}"]


@pytest.mark.parametrize("name", sorted(LEAST))
def test_without_hostile_updates_any_number_will_do(name: str):
    """F = 0 promises nothing, so it refuses nothing; the result lies within the vectors."""
    for n in (1, 2, 3, 4):
        rows = rows_of(n)
        ballot = cast(ballot_of(rows), [name])

        assert np.isfinite(ballot.coefficients).all()
        assert ballot.coefficients.sum() == pytest.approx(1) or name in {"norm_bound", "centered_clip"}


def test_buckets_count_as_vectors_afterwards():
    """Two of ten are hostile; in buckets of two, two of five may be, and krum needs seven."""
    known = facts(10, f=2)

    cast(ballot_of(rows_of(10), known), ["bucketing", "geomedian"])
    with pytest.raises(BadUpdate, match=r"^krum got 5 vectors \(made from 10 updates\), of which 2 .* at least 7"):
        cast(ballot_of(rows_of(10), known), ["bucketing", "krum"])


@pytest.mark.parametrize(("n", "size", "most"), [(10, 3, 2), (12, 3, 2), (8, 2, 1), (13, 4, 3)])
def test_buckets_too_large_are_refused_with_the_largest_that_fits(n: int, size: int, most: int):
    """More than 2f buckets, or nothing behind can tell the hostile ones."""
    known = facts(n, f=2)

    with pytest.raises(BadUpdate, match=f"^{n} vectors in buckets of {size} are 4 buckets, .* 2 .* 4 are needed") as no:
        cast(ballot_of(rows_of(n), known), ["bucketing"], {"bucket_size": size})
    assert no.value.__notes__ == [f"fix: set bucket_size to at most {most}"]
    assert len(cast(ballot_of(rows_of(n), known), ["bucketing"], {"bucket_size": most}).weights) > 4


@pytest.mark.parametrize("name", sorted({*LEAST, "bucketing"}))
def test_half_of_the_weight_in_hostile_hands_is_refused(name: str):
    """A client that states a billion examples must not decide the round, nor end every round: cap is the way out."""
    weights = np.array([1.0] * 10 + [10.0])
    known = facts(11, f=1)

    with pytest.raises(BadUpdate, match=f"^the heaviest 1 of 11 vectors hold 50% of the weight, and {name} withstands"):
        cast(ballot_of(rows_of(11), known, weights=weights), [name])
    cast(ballot_of(rows_of(11), known, weights=weights - 0.01 * (weights == 10)), [name])
    cast(ballot_of(rows_of(11), known, weights=weights), ["cap", name])
    part = ballot_of(rows_of(11), known, weights=weights)
    with pytest.raises(BadUpdate, match=r"hold 50% of the weight"):
        cast(part.weighted(0.5 * part.weights), [name])  # of what is there, whatever it sums to


@pytest.mark.parametrize("name", sorted({*LEAST, "bucketing", "cap"}))
def test_a_round_without_weight_is_refused(name: str):
    rows = rows_of(7)
    ballot = Ballot(facts(7), np.eye(7), np.zeros(7), rows @ rows.T)

    with pytest.raises(BadUpdate, match=f"^{name} got 7 vectors without any weight"):
        cast(ballot, [name])


@pytest.mark.parametrize("name", sorted(LEAST))
def test_an_update_without_weight_is_no_neighbour_and_no_voter(name: str):
    """A client without examples does not stand in any place that the honest are counted by."""
    rows = rows_of(8)
    with_one_more = np.vstack([rows, rows[:1] + 0.01])
    weights = np.append(np.ones(8), 0.0)

    without = cast(ballot_of(rows), [name])
    beside = cast(ballot_of(with_one_more, weights=weights), [name])

    assert beside.coefficients[:8] == pytest.approx(without.coefficients, abs=1e-6)
    assert beside.coefficients[8] == 0


def test_multikrum_keeps_at_most_the_honest():
    with pytest.raises(BadUpdate, match=r"^multikrum is to keep 8 of 9 vectors of which 2 may be hostile") as refused:
        cast(ballot_of(rows_of(9), facts(9, f=2)), ["multikrum"], {"krum_keep": 8})
    assert refused.value.__notes__ == ["fix: set krum_keep to at most 7, or leave it out"]

    assert len(cast(ballot_of(rows_of(9), facts(9, f=2)), ["multikrum"], {"krum_keep": 7}).weights) == 7


def test_dnc_leaves_more_than_could_be_hostile():
    with pytest.raises(BadUpdate, match=r"^dnc is to drop 6 of 8 vectors and must leave more than 2"):
        cast(ballot_of(rows_of(8), facts(8, f=2)), ["dnc"], {"dnc_factor": 1.5, "dnc_rounds": 2})

    assert len(cast(ballot_of(rows_of(9), facts(9, f=2)), ["dnc"], {"dnc_factor": 1.5, "dnc_rounds": 2}).weights) == 3


def test_mda_says_when_it_would_take_too_long():
    cast(ballot_of(rows_of(22), facts(22, f=2)), ["mda"])
    with pytest.raises(BadUpdate, match=r"^mda would look through 75582 subsets of 11 out of 19 .* 50000 is its limit"):
        cast(ballot_of(rows_of(19), facts(19, f=8)), ["mda"])


def test_fltrust_needs_something_to_trust():
    with pytest.raises(BadUpdate, match=r"^fltrust has no trusted innovation"):
        cast(ballot_of(rows_of(5)), ["fltrust"])
    with pytest.raises(
        BadUpdate, match=r"^none of 5 vectors points the way of the trusted innovation, whose norm is 0"
    ):
        cast(ballot_of(rows_of(5), reference=np.zeros(12)), ["fltrust"])
    with pytest.raises(BadUpdate, match="points the way"):
        cast(ballot_of(rows_of(5), reference=-rows_of(5).sum(axis=0)), ["fltrust"])


def test_foolsgold_refuses_a_round_of_copies():
    with pytest.raises(BadUpdate, match=r"^every one of 4 vectors is a copy of another"):
        cast(ballot_of(np.tile(rows_of(1), (4, 1))), ["foolsgold"])


def test_a_direction_that_nobody_shares_is_refused():
    opposed = np.vstack([rows_of(1), -rows_of(1)])

    with pytest.raises(
        BadUpdate, match=r"^no cosine of 2 vectors to their median direction reaches 0.5; the largest is"
    ):
        cast(ballot_of(opposed), ["cosine"], {"min_cosine": 0.5})


def test_nobody_has_made_a_step():
    with pytest.raises(BadUpdate, match=r"^none of 3 updates that count has made a step"):
        cast(ballot_of(rows_of(3), facts(3, steps=[0, 0, 0])), ["fednova"])
    with pytest.raises(BadUpdate, match=r"^none of 3 updates that count"):
        cast(ballot_of(rows_of(3), facts(3, steps=[0, 0, 5]), weights=[1, 1, 0]), ["fednova"])


@pytest.mark.parametrize("name", sorted({*LEAST, "foolsgold", "fltrust"}))
def test_numbers_that_distances_cannot_be_made_of_are_refused(name: str):
    """Above 10¹⁵⁰ a square overflows, and an infinite distance turns into NaN somewhere behind."""
    rows = rows_of(7)
    rows[3] *= 1e151

    with np.errstate(over="ignore"), pytest.raises(BadUpdate, match=f"^{name}: the largest of 7 vectors has a norm of"):
        cast(Ballot(facts(7, f=1), np.eye(7), np.full(7, 1 / 7), rows @ rows.T, np.ones(8)), [name])
    with pytest.raises(BadUpdate, match="has a norm of nan"):
        cast(Ballot(facts(7, f=1), np.eye(7), np.full(7, 1 / 7), np.full((7, 7), np.nan), np.ones(8)), [name])


def test_norms_are_taken_up_to_ten_to_the_150():
    rows = rows_of(7) / np.linalg.norm(rows_of(7), axis=1)[:, None]

    for length, taken in ((0.9e150, True), (1.1e150, False)):
        rows[3] *= length / np.linalg.norm(rows[3])
        ballot = Ballot(facts(7, f=1), np.eye(7), np.full(7, 1 / 7), rows @ rows.T)
        if taken:
            assert cast(ballot, ["krum"]).coefficients[3] == 0
        else:
            with pytest.raises(BadUpdate, match=r"has a norm of 1.1e\+150"):
                cast(ballot, ["krum"])
    largest = Ballot(facts(1), np.eye(1), np.ones(1), np.array([[1e300]]))
    assert inner_products(largest, "krum").tolist() == [[1e300]]


def test_a_client_that_made_no_step_counts_as_nothing():
    """It cannot be divided by; the others are scaled by the mean of all steps, 2, over their own."""
    rows = rows_of(3)

    ballot = cast(ballot_of(rows, facts(3, steps=[0, 2, 4])), ["fednova"])

    assert ballot.coefficients == pytest.approx([0, 1 / 3, 1 / 6])


def test_the_best_of_two_is_the_first_and_of_three_the_one_between():
    """Rounds of a few, without hostile ones: one neighbour is left to count at least."""
    rows = np.array([[0.0, 0, 0, 0], [3.0, 0, 0, 0], [4.0, 0, 0, 0]])

    for margin in (1, 2):
        assert cast(ballot_of(rows[1:]), ["krum"], {"krum_margin": margin}).coefficients.tolist() == [1, 0]
        assert cast(ballot_of(rows), ["krum"], {"krum_margin": margin}).coefficients.tolist() == [0, 1, 0]
