"""The card and the status say what the coordinator can read, in plain words and with the numbers of the recipe."""

import pytest

from potluck.client.consent import beside_of, mind_of, mode_of, promise_of, update_bytes
from potluck.wire.sums import terms_of, vector_bytes
from scripted import recipe
from summing import summed_recipe

SUMMED = summed_recipe()


@pytest.mark.parametrize(
    "words",
    [
        "sums of at least 5 updates",
        "a small group, which hides little",
        "more than 1/3 of those",
        "could invent members",
        "not differential privacy",
        "waits on your disk, encrypted",
    ],
)
def test_the_card_of_a_run_with_sums_says(words: str):
    assert words in mind_of(SUMMED)


def test_a_usual_cohort_is_not_called_small():
    usual = summed_recipe(aggregation={"cohort": 12}, privacy={"cohort_minimum": 10, "small_cohorts": False})

    assert "sums of at least 10 updates" in mind_of(usual)
    assert "small group" not in mind_of(usual)


@pytest.mark.parametrize(
    ("summed", "unit", "words"),
    [
        (False, "none", "how many examples, tokens and steps it took; two loss numbers"),
        (
            False,
            "example",
            (
                "how many examples and steps the recipe asks for; what your ledger of private rounds says it cost so "
                "far; no loss"
            ),
        ),
        (True, "none", "as part of the sum: that it is one, how many tokens it took, whether it was shrunk, a loss"),
        (
            True,
            "example",
            (
                "as part of the sum: that it is one, whether it was shrunk; by itself: what your ledger of private "
                "rounds says it cost so far"
            ),
        ),
    ],
)
def test_the_card_says_what_leaves_beside_the_numbers_and_how(*, summed: bool, unit: str, words: str):
    privacy = {"differential": {"unit": unit}}

    assert beside_of(summed_recipe(privacy=privacy) if summed else recipe(privacy=privacy)) == words


def test_a_plain_run_claims_nothing():
    assert "can read each update by itself" in mind_of(recipe())
    assert "no secure aggregation and no differential privacy" in mind_of(recipe())


@pytest.mark.parametrize(("one", "words"), [(SUMMED, "sums of at least 5"), (recipe(), "can read each update")])
def test_the_status_says_it_shortly(one, words: str):
    assert words in mode_of(one)


def test_nothing_promises_what_nobody_can():
    """What users may be told ends here."""
    for forbidden in ("anonymous", "GDPR", "cannot ever", "guarantee"):
        assert forbidden not in mind_of(SUMMED)


def test_the_size_on_the_card_is_what_travels():
    assert update_bytes(SUMMED) == vector_bytes(terms_of(SUMMED, "", 0))


@pytest.mark.parametrize("summed", [False, True])
def test_a_run_that_noises_its_sums_promises_nothing_about_who_is_in_them(*, summed: bool):
    of_sums = {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous", "cohort": 12}
    wanted = {"secure_aggregation": summed, "differential": {"unit": "user-central", "participations": 2}}

    promise = promise_of(recipe(run={"versions": 2}, model={"modules": {}}, aggregation=of_sums, privacy=wanted))

    assert "from the published adapters whether you took part: epsilon 8 at delta 1e-05 for one volunteer" in promise
    assert "sees who takes part and when; who is a member, and who left, is in its log" in promise
    assert ("whose updates were in each sum" in promise) is summed
