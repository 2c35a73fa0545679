"""A recipe that wants sums is refused whatever could not be given with them, with the reason and the fix."""

import json

import pytest

from potluck.aggregation.errors import BadSetting
from potluck.wire.recipe import Recipe

SUMMED = {
    "run": {"name": "small"},
    "model": {"base": "somebody/some-model"},
    "aggregation": {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous", "cohort": 12},
    "privacy": {"secure_aggregation": True},
}


def parsed(**tables: dict[str, object]) -> Recipe:
    return Recipe.parse(
        json.dumps({name: SUMMED.get(name, {}) | tables.get(name, {}) for name in {**SUMMED, **tables}})
    )


@pytest.mark.parametrize("rule", ["ffa", "rolora", "fedsvd"])
def test_rules_of_one_factor_are_summed(rule: str):
    assert parsed(aggregation={"rule": rule}).privacy.secure_aggregation


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        ("aggregation", {"rule": "flora"}, "stacks every volunteer's factors"),
        ("aggregation", {"rule": "mean"}, "does not add up one factor"),
        ("aggregation", {"rule": "fedit"}, "does not add up one factor"),
        ("aggregation", {"rule": "hetlora"}, "weighs updates by their norms"),
        ("aggregation", {"rule": "flexlora"}, "sums products, which are of full rank"),
        ("aggregation", {"rule": "fedex"}, "the residual of every volunteer's product"),
        ("aggregation", {"rule": "raflora"}, "weighs every column by who trained it"),
        ("aggregation", {"rule": "median"}, "picks between single updates"),
        ("aggregation", {"rule": "trimmed_mean"}, "leaves out single updates"),
        ("aggregation", {"rule": "bulyan"}, "picks between single updates"),
        ("aggregation", {"weights": ["examples"]}, "what one claims of itself"),
        ("aggregation", {"weights": ["uniform", "krum"]}, "look at single updates"),
        ("aggregation", {"hostile": 0.1}, "nobody can find a hostile update in a sum"),
        ("aggregation", {"mode": "asynchronous"}, "a sum needs a cohort that meets"),
        ("aggregation", {"cohort": 9}, "aggregation.cohort is 9, and a sum has 10 to 128 members"),
        ("aggregation", {"cohort": 129}, "a sum has 10 to 128 members"),
        ("codec", {"name": "int8"}, "scales every update by itself"),
        ("codec", {"name": "nf4"}, "scales every update by itself"),
        ("codec", {"name": "topk", "may_forget": True}, "sends other entries of every update"),
        ("codec", {"name": "sparse2bit", "error_feedback": True}, "a sum has no codec"),
        ("adapter", {"targets": ["q_proj", "lm_head"]}, "tells which words were trained on"),
        ("privacy", {"cohort_minimum": 4}, "greater than or equal to 5"),
        ("privacy", {"cohort_minimum": 9}, "hides little"),
        ("privacy", {"cohort_minimum": 9}, "small_cohorts = true"),
        ("privacy", {"small_cohorts": True, "cohort_minimum": 4}, "greater than or equal to 5"),
        ("privacy", {"corrupt_share": "1/2"}, "corrupt_share"),
        ("privacy", {"ring_bits": 8}, "ring_bits"),
        ("privacy", {"clip": 0.0}, "clip"),
    ],
)
def test_what_cannot_be_had_with_a_sum_is_refused(table: str, settings: dict[str, object], words: str):
    with pytest.raises(BadSetting) as caught:
        parsed(**{table: settings})

    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert words in told
    assert "fix: " in told


def test_all_reasons_are_named_at_once():
    with pytest.raises(BadSetting) as caught:
        parsed(aggregation={"rule": "mean", "hostile": 0.2, "mode": "asynchronous"}, codec={"name": "int8"})

    for words in ("'mean'", "hostile is 0.2", "asynchronous", "int8"):
        assert words in str(caught.value)


def test_without_a_sum_none_of_it_is_asked():
    assert parsed(privacy={"secure_aggregation": False}, aggregation={"rule": "mean", "cohort": 3})


def test_a_client_refuses_what_gives_words_away_whoever_offers_it():
    """How a coordinator combines is its affair; what a volunteer would reveal is not."""
    text = json.loads(parsed().to_json())
    text["adapter"]["targets"] = ["embed_tokens"]

    with pytest.raises(BadSetting, match="tells which words"):
        Recipe.offered(json.dumps(text))
