"""Rounds that must not happen: wrong settings, updates that do not fit, nothing to combine."""

import numpy as np
import pytest

from adapters import SHAPES, low_rank, random_update
from potluck.aggregation import BadSetting, BadUpdate, LowRank, Pipeline, UnknownName, Update, aggregate
from potluck.aggregation.pipeline import unknown


@pytest.mark.parametrize(
    ("options", "error", "says", "fix"),
    [
        ({"rule": "maen"}, UnknownName, "'maen'", "'mean'"),
        ({"weights": ("examplez",)}, UnknownName, "'examplez'", "'examples'"),
        ({"weights": "examples"}, BadSetting, "'examples'", "tuple"),
        ({"outer": "adam"}, UnknownName, "'adam'", "fedadam"),
        ({"settings": {"etta": 1.0}}, UnknownName, "'etta'", "'eta'"),
        ({"settings": {"eta": 0.0}}, BadSetting, r"eta 0\b", "positive"),
        ({"outer": "nesterov", "settings": {"mu": 1.0}}, BadSetting, r"mu is 1\b", "less than 1"),
        ({"rank": 0}, BadSetting, "rank is 0", "at least 1"),
        ({"f": -1}, BadSetting, "f is -1", "at least 0"),
    ],
)
def test_a_wrong_name_or_setting_is_refused_when_the_pipeline_is_made(options, error, says, fix):
    """Not in the first round, days later."""
    with pytest.raises(error, match=says) as caught:
        Pipeline(**options)

    assert fix in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("options", "says", "fix"),
    [
        ({"rule": "maen"}, "no aggregation rule is called 'maen'", "did you mean 'mean'?"),
        ({"outer": "nestorov"}, "no outer step is called 'nestorov'", "did you mean 'nesterov'?"),
        ({"weights": ("kurm",)}, "no weight is called 'kurm'", "did you mean 'krum'?"),
        (
            {"settings": {"x": 1.0}, "weights": ("cap", "krum")},
            "no setting of this pipeline is called 'x'",
            "choices: cap_factor, eta, krum_margin",
        ),
        (
            {"weights": ("examples", "nnm", "krum", "uniform")},
            "a factor of single updates follows the step 'nnm' in ('examples', 'nnm', 'krum', 'uniform')",
            "put factors such as 'examples' before every step",
        ),
    ],
)
def test_a_refusal_of_a_pipeline_says_what_and_which(options, says: str, fix: str):
    with pytest.raises((BadSetting, UnknownName)) as caught:
        Pipeline(**options)

    assert (str(caught.value).splitlines()[0], caught.value.__notes__) == (says, [f"fix: {fix}"])


def test_a_name_among_none_has_no_choices():
    assert unknown("setting", "x", set()).__notes__ == ["fix: choices: none: it has no settings"]


def spoiled(update: Update, value: float) -> Update:
    """Return *update* with one value of one factor replaced."""
    b = update.trained["mlp"].b.copy()
    b[3, 1] = value
    return Update({**update.trained, "mlp": LowRank(b, update.trained["mlp"].a)}, update.start, update.examples)


@pytest.mark.parametrize("wrap", [list, iter], ids=["list", "iterator"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda u: spoiled(u, np.nan), r"update 1: mlp trained lora_B\[3, 1\] is NaN"),
        (lambda u: spoiled(u, -np.inf), r"lora_B\[3, 1\] is NaN or infinite"),
        (
            lambda u: Update(
                {n: LowRank(np.float64(1e200) * t.b, np.float64(1e200) * t.a) for n, t in u.trained.items()}, {}, 1
            ),
            "overflows",
        ),
        (
            lambda u: Update({"mlp": u.trained["mlp"]}, {}, 1),
            r"update 1 has 1 modules where 2 .* missing \['attention'\]",
        ),
        (lambda u: Update({**u.trained, "x": u.trained["mlp"]}, {}, 1), r"has . modules where . are .*\['x'\]"),
        (
            lambda u: Update({n: LowRank(t.a.T, t.b.T) for n, t in u.trained.items()}, {}, 1),
            r"update 1: attention is \(9, 12\) where the others are \(12, 9\)",
        ),
    ],
)
def test_an_update_that_does_not_fit_is_named_with_numbers(change, says, wrap):
    """So that an operator knows whom to leave out, and why."""
    rng = np.random.default_rng(18)
    good = random_update(rng)
    bad = change(random_update(rng))
    bad = Update({n: LowRank(t.b.astype(float), t.a.astype(float)) for n, t in bad.trained.items()}, bad.start, 1)

    with pytest.raises(BadUpdate, match=says):
        aggregate(wrap([good, bad]), {name: low_rank(rng, shape, 2) for name, shape in SHAPES.items()})


@pytest.mark.parametrize(
    ("updates", "says"),
    [
        (lambda _: [], "no updates"),
        (lambda _: iter([]), "no updates"),
        (lambda rng: [Update(random_update(rng).trained, {}, 0)] * 2, r"2 updates weigh 0\.0"),
    ],
)
def test_a_round_without_weight_is_refused(updates, says):
    """Dividing by zero would publish NaN; a silent zero would hide that nobody took part."""
    with pytest.raises(BadUpdate, match=says):
        aggregate(updates(np.random.default_rng(19)), {})


def test_fedit_refuses_what_it_cannot_average():
    """Factors of two ranks, of two scales, or from two starts, have no mean."""
    rng = np.random.default_rng(20)

    for other in (random_update(rng, rank=2), random_update(rng, rank=3, scale=1.0), random_update(rng, rank=3)):
        with pytest.raises(BadUpdate, match="different factors"):
            aggregate([random_update(rng, rank=3, scale=2.0), other], {}, Pipeline(rule="fedit"))
