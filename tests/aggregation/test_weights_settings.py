"""The settings of the weight steps: which are refused, what they are by default, how a recipe's numbers arrive."""

from dataclasses import fields

import numpy as np
import pytest

from potluck.aggregation import BadSetting, Pipeline
from potluck.aggregation.weights.clipping import NormBound
from potluck.aggregation.weights.mixing import Bucketing
from potluck.aggregation.weights.registry import WEIGHTS


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("krum", "krum_margin", [0, 1.5, 3]),
        ("multikrum", "krum_margin", [0, 3]),
        ("multikrum", "krum_keep", [0, 2.0]),
        ("bulyan_selection", "krum_margin", [0, 3]),
        ("bucketing", "bucket_size", [0, 2.5]),
        ("norm_bound", "max_norm", [0.0, -1.0, np.inf, np.nan]),
        ("centered_clip", "clip_iterations", [0, 100_001]),
        ("centered_clip", "clip_radius", [0.0]),
        ("geomedian", "median_iterations", [0, 100_001]),
        ("geomedian", "median_smoothing", [0.0]),
        ("geomedian", "median_tolerance", [-1.0]),
        ("dnc", "dnc_factor", [0.0]),
        ("dnc", "dnc_rounds", [0, 100_001]),
        ("cosine", "min_cosine", [1.0, -1.1, np.nan]),
        ("cap", "cap_factor", [0.0, np.inf]),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, setting: str, values: list[float]):
    for value in values:
        with pytest.raises(BadSetting, match=f"^{setting} is ") as refused:
            WEIGHTS[name](**{setting: value})
        assert refused.value.__notes__
    if setting == "krum_margin":
        assert refused.value.__notes__ == ["fix: use a whole number from 1 to 2"]
    if setting == "bucket_size":
        assert refused.value.__notes__ == ["fix: use a whole number of at least 1"]


def test_settings_at_the_edge_are_taken():
    WEIGHTS["cosine"](min_cosine=-1.0)
    WEIGHTS["krum"](krum_margin=2)
    WEIGHTS["multikrum"](krum_keep=1)
    WEIGHTS["bucketing"](bucket_size=1)
    WEIGHTS["geomedian"](median_iterations=1)


def test_the_defaults_are_those_that_recipes_rely_on():
    """A recipe that names a step and no setting means these numbers."""
    defaults = {
        name: {field.name: field.default for field in fields(kind)} for name, kind in WEIGHTS.items() if fields(kind)
    }

    assert defaults == {
        "cap": {"cap_factor": 1.0},
        "norm_bound": {"max_norm": None},
        "centered_clip": {"clip_iterations": 10, "clip_radius": None, "clip_from_mean": False},
        "bucketing": {"bucket_size": 2},
        "krum": {"krum_margin": 1},
        "multikrum": {"krum_margin": 1, "krum_keep": None},
        "bulyan_selection": {"krum_margin": 1},
        "geomedian": {"median_smoothing": 1e-7, "median_tolerance": 1e-8, "median_iterations": 5000},
        "dnc": {"dnc_factor": 1.0, "dnc_rounds": 1},
        "cosine": {"min_cosine": 0.0},
    }


def test_a_count_may_come_as_a_float():
    """A recipe is read strictly into floats, so `bucket_size = 3` arrives as 3.0; 2.5 buckets are refused as before."""
    pipeline = Pipeline(weights=("bucketing", "norm_bound"), settings={"bucket_size": 3.0, "max_norm": 0.5})

    assert pipeline.stages().steps == (Bucketing(bucket_size=3), NormBound(max_norm=0.5))
    assert isinstance(pipeline.stages().steps[0].bucket_size, int)
    with pytest.raises(BadSetting, match=r"^bucket_size is 2.5"):
        Pipeline(weights=("bucketing",), settings={"bucket_size": 2.5})
