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
        ("aggregation", {"hostile": 0.1}, "clip bounds what all members do together"),
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


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        ({"differential": {"epsilon": 2.0}}, ["differential.epsilon is 2.0", 'unit = "example" or unit = "user']),
        ({"differential": {"noise": 1.0, "delta": 1e-6}}, ["differential.noise is 1.0", "differential.delta is 1e-06"]),
        ({"differential": {"participations": 3}}, ["differential.participations is 3"]),
        ({"differential": {"unit": "example", "separation": 4}}, ["differential.separation is 4", "user-central"]),
        ({"differential": {"unit": "user-central", "clip": 0.1}}, ["differential.clip is 0.1", "is privacy.clip"]),
        ({"differential": {"unit": "user-central", "cap": 9}}, ["differential.cap is 9", "draws records"]),
        ({"clip": 0.1}, ["privacy.clip is 0.1", "secure_aggregation = true"]),
        ({"clip": 0.1, "differential": {"unit": "example"}}, ["privacy.clip is 0.1", "privacy.differential.clip"]),
        ({"cohort_minimum": 20}, ["privacy.cohort_minimum is 20", "secure_aggregation = true"]),
        ({"corrupt_share": "1/5", "ring_bits": 32}, ['privacy.corrupt_share is "1/5"', "privacy.ring_bits is 32"]),
        ({"sum_losses": False, "vector_s": 9}, ["privacy.sum_losses is false", "privacy.vector_s is 9"]),
    ],
)
def test_a_key_that_nothing_uses_is_refused_and_what_would_use_it_is_named(privacy: dict, words: list[str]):
    """Somebody who wrote epsilon thinks that it protects."""
    with pytest.raises(BadSetting) as caught:
        parsed(privacy={"secure_aggregation": False, **privacy}, aggregation={"cohort": 100})

    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert [word for word in words if word not in told] == []


def test_what_private_training_does_not_clip_with_is_refused():
    with pytest.raises(BadSetting, match=r"training\.clip_grad_norm is 0\.5"):
        parsed(training={"clip_grad_norm": 0.5}, privacy={"differential": {"unit": "example"}})


@pytest.mark.parametrize("unit", ["none", "example", "user-central"])
@pytest.mark.parametrize("summed", [False, True])
def test_defaults_that_are_written_out_are_accepted(unit: str, *, summed: bool):
    """A recipe's own JSON has every key: the host and every volunteer read that."""
    recipe = parsed(run={"versions": 20}, privacy={"secure_aggregation": summed, "differential": {"unit": unit}})

    assert Recipe.parse(recipe.to_json()) == recipe == Recipe.offered(recipe.to_json())
