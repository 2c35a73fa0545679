"""What travels of a run whose rule trains one factor, and which recipes cannot work."""

import json

import numpy as np
import pytest

from potluck.aggregation import AGGREGATORS, INITS, encode
from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.wire.recipe import Adapter, Recipe
from potluck.wire.tensors import Manifest, decode_update

MODULES = {"model.layers.{0..1}.q_proj": [16, 12]}

NEED_A_B = ("fedsa", "fedsb")


def recipe(rule: str, **tables: dict[str, object]) -> Recipe:
    whole: dict[str, dict[str, object]] = {
        "run": {"name": "one factor"},
        "model": {"base": "nobody/nothing", "digest": "ab" * 32, "modules": MODULES},
        "adapter": {"rank": 2, "targets": ["q_proj"]},
        "aggregation": {"rule": rule},
    }
    for name, table in tables.items():
        whole[name] = whole.get(name, {}) | table
    return Recipe.parse(json.dumps(whole))


@pytest.mark.parametrize(
    ("rule", "moves", "kept", "late"),
    [
        ("mean", ("both", "both"), "continue", True),
        ("fedit", ("both", "both"), "continue", False),
        ("ffa", ("b", "b"), "keep", True),
        ("median", ("b", "b"), "keep", True),
        ("fedsvd", ("b", "b"), "orthonormal", False),
        ("rolora", ("b", "a"), "keep", False),
    ],
)
def test_the_rule_decides_what_is_trained_how_a_start_is_cut_and_whether_it_may_be_late(rule, moves, kept, late):
    """Late updates are in another basis where the public factor changes; only ffa's and its like stay."""
    one = recipe(rule)

    assert (one.moves(0), one.moves(1)) == moves == (one.moves(2), one.moves(7))
    assert (one.init, one.any_start) == (kept, late)


@pytest.mark.parametrize("init", ["fresh", "half", "orthonormal"])
def test_a_start_that_the_recipe_names_is_taken_and_a_changing_public_factor_takes_no_late_updates(init: str):
    one = recipe("ffa", adapter={"init": init})

    assert (one.init, one.any_start) == (init, False)
    assert recipe("mean", adapter={"init": init}).any_start


def test_every_start_but_keep_can_be_asked_for():
    """Keep is what continue means where one factor is trained."""
    asked = Adapter.model_fields["init"].annotation.__args__
    assert {*asked, "keep"} == set(INITS)


@pytest.mark.parametrize("rule", NEED_A_B)
def test_a_rule_that_needs_a_b_to_begin_with_is_refused(rule: str):
    """A run begins with B = 0: A alone would never learn, and no core has subspaces to be between."""
    with pytest.raises(BadSetting, match="needs a B that is there already"):
        recipe(rule)


@pytest.mark.parametrize("rule", sorted(set(AGGREGATORS) - set(NEED_A_B)))
def test_a_manifest_holds_what_moves_and_nothing_else(rule: str):
    """Half of the numbers where one factor is trained, and of other names in odd versions where they alternate."""
    one = recipe(rule)
    for version in range(4):
        manifest = Manifest.of(one, version)
        ends = {"both": {"A": 12, "B": 16}, "b": {"B": 16}, "a": {"A": 12}}[one.moves(version)]
        assert {name.rpartition("_")[2] for name, _ in manifest.entries} == set(ends)
        assert manifest.values == 2 * 2 * sum(ends.values())


def test_an_update_of_the_other_parity_is_refused():
    one = recipe("rolora")
    even, odd = (Manifest.of(one, version) for version in (0, 1))
    sent = encode({name: np.ones(shape, np.float32) for name, shape in even.entries}, "fp32")

    assert even.digest() != odd.digest()
    assert set(decode_update(sent, even)) == {f"model.layers.{n}.q_proj.lora_B" for n in (0, 1)}
    with pytest.raises(BadTensor, match=r"2 tensors are missing .*lora_A.* and 2 are unexpected .*lora_B"):
        decode_update(sent, odd)


@pytest.mark.parametrize(
    ("rule", "tables", "says"),
    [
        ("rolora", {"adapter": {"init": "fresh"}}, "adapter.init is 'fresh', so B starts at zero"),
        ("rolora", {"adapter": {"init": "half", "rank": 1}}, "adapter.init is 'half', so B starts at zero"),
        ("ffa", {"aggregation": {"master_rank": 1}}, "master_rank is 1; 'ffa' keeps the volunteers' 2 columns"),
        ("rolora", {"aggregation": {"master_rank": 1}}, "master_rank is 1; 'rolora' keeps the volunteers' 2 columns"),
    ],
)
def test_a_recipe_that_cannot_learn_is_refused(rule: str, tables, says: str):
    with pytest.raises(BadSetting, match=says):
        recipe(rule, **tables)


@pytest.mark.parametrize(
    ("rule", "tables"),
    [
        ("rolora", {"adapter": {"init": "half", "rank": 2}}),
        ("rolora", {"adapter": {"init": "orthonormal"}}),
        ("ffa", {"adapter": {"init": "fresh"}}),
        ("ffa", {"aggregation": {"master_rank": 2}}),
        ("fedsvd", {"aggregation": {"master_rank": 1}}),
    ],
)
def test_a_recipe_next_to_those_is_taken(rule: str, tables):
    assert recipe(rule, **tables).aggregation.rule == rule
