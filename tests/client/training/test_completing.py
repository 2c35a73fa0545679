"""A recipe as a person writes it, filled in from the base model, and short enough to be read."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from potluck.client.training.bases import Base, shapes
from potluck.client.training.completing import completed, ranges
from potluck.client.training.errors import BadBase, NoBase
from potluck.wire.bases import Model
from potluck.wire.recipe import Recipe

pieces = st.sampled_from(["model", "layers", "q_proj", "experts", "0", "1", "2", "3", "03", "9999", "10000", "h_2"])
names = st.lists(pieces, min_size=1, max_size=5).map(".".join)
sides = st.tuples(st.integers(1, 3), st.integers(1, 3))
grids = st.builds(
    lambda low, count, tails, shape: {
        f"model.layers.{n}.{tail}": shape for n in range(low, low + count) for tail in tails
    },
    st.integers(0, 12),
    st.integers(1, 40),
    st.lists(st.sampled_from(["q", "attn.0.k", "mlp.experts.7.up"]), min_size=1, unique=True),
    sides,
)


@example({"model.layers.9999.q": (1, 1), "model.layers.10000.q": (1, 1)})
@given(st.one_of(st.dictionaries(names, sides, min_size=1, max_size=30), grids))
def test_folding_and_expanding_gives_the_modules_back(modules: dict[str, tuple[int, int]]):
    """A client works out the manifest from the folded names; one module more or less and no update would fit."""
    folded = ranges(modules)

    assert Model(base="any", modules=folded).expanded() == dict(sorted(modules.items()))
    assert len(folded) <= len(modules)


@given(grids)
def test_layers_without_a_gap_become_one_line_each(modules: dict[str, tuple[int, int]]):
    tails = {name.split(".", 3)[3] for name in modules}

    assert len(ranges(modules)) == len(tails)


def test_what_folding_looks_like():
    layers = {f"model.layers.{n}.q_proj": (4, 8) for n in range(30)}

    assert ranges(layers) == {"model.layers.{0..29}.q_proj": (4, 8)}
    assert ranges({"a.0.q": (1, 1), "a.2.q": (1, 1)}) == {"a.0.q": (1, 1), "a.2.q": (1, 1)}
    assert ranges({"a.0.q": (1, 1), "a.1.q": (1, 2)}) == {"a.0.q": (1, 1), "a.1.q": (1, 2)}


def written(found: Base, **model: str) -> Recipe:
    tables = {
        "run": {"name": "tiny"},
        "model": {"base": str(found.folder), **model},
        "adapter": {"targets": ["q_proj", "up_proj"]},
    }
    return Recipe.parse(json.dumps(tables))


def test_a_recipe_is_filled_in_from_its_base_model_and_nothing_else_changes(base: Base, tmp_path: Path):
    recipe = written(base)
    assert not recipe.complete

    whole = completed(recipe, tmp_path)

    assert whole.complete
    assert whole.model.digest == base.digest
    assert whole.modules() == shapes(base.folder, ("q_proj", "up_proj"))
    assert set(whole.model.modules) == {"model.layers.{0..1}.self_attn.q_proj", "model.layers.{0..1}.mlp.up_proj"}
    assert whole.model_copy(update={"model": recipe.model}) == recipe
    assert Recipe.parse(whole.to_json()) == whole


def test_completing_twice_is_completing_once(base: Base, tmp_path: Path):
    whole = completed(written(base), tmp_path)

    assert completed(whole, tmp_path) == whole


def test_a_licence_that_the_operator_states_stays(base: Base, tmp_path: Path):
    assert completed(written(base, licence="MIT"), tmp_path).model.licence == "MIT"


def test_another_model_than_the_recipe_was_made_for_is_refused(base: Base, tmp_path: Path):
    with pytest.raises(BadBase, match=rf"has digest {base.digest[:16]}…, the recipe says {'ab' * 8}…") as caught:
        completed(written(base, digest="ab" * 32), tmp_path)

    assert "leave model.digest out" in caught.value.__notes__[0]


def test_a_target_that_the_model_lacks_is_answered_with_those_that_it_has(base: Base, tmp_path: Path):
    recipe = written(base)
    odd = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"targets": ("q_proj", "c_attn")})})

    with pytest.raises(BadBase, match="no linear module called c_attn") as caught:
        completed(odd, tmp_path)

    assert "q_proj" in caught.value.__notes__[0]


def test_a_base_model_that_is_nowhere_is_told_as_that(base: Base, tmp_path: Path):
    with pytest.raises(NoBase, match="is no folder here"):
        completed(written(base, base="./no such folder"), tmp_path)
