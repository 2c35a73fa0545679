"""A recipe says exactly what it means, or says what is wrong with it."""

import hashlib
import json
import tomllib
import tracemalloc
from pathlib import Path

import pytest
from pydantic import BaseModel

from potluck.aggregation.errors import BadSetting, PotluckError, UnknownName
from potluck.wire.recipe import Recipe

SMALL = """
[run]
name = "small"
[model]
base = "somebody/some-model"
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Recipe.read(path)


def told(error: PotluckError) -> str:
    """Return all that the user will read."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def test_two_lines_make_a_recipe(tmp_path: Path):
    recipe = read(tmp_path, SMALL)

    assert recipe.adapter.scale == 2.0
    assert not recipe.complete


def test_a_recipe_survives_its_own_json(tmp_path: Path):
    """The client consents to the JSON that the coordinator sends; both must mean the same, to the byte."""
    recipe = read(tmp_path, SMALL)

    again = Recipe.parse(recipe.to_json())

    assert again == recipe
    assert again.digest() == recipe.digest()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[aggregation]\nchort = 3", "did you mean 'cohort'?"),
        ("[aggregation]\nrule = 'maen'", "did you mean 'mean'?"),
        ("[aggregation]\nouter = 'nesterow'", "did you mean 'nesterov'?"),
        ("[aggregation]\nweights = ['example']", "did you mean 'examples'?"),
        ("[aggregation]\nsettings = {etta = 0.7}", "did you mean 'eta'?"),
        ("[codec]\nname = 'int88'", "did you mean 'int8'?"),
        ("[training]\nsteps = -4", "Optimiser steps in one round."),
        ("[training]\nsteps = '4'", "training.steps is '4'"),
        ("[training]\nlearning_rate = nan", "learning_rate"),
        ("[privacy]\nsecure_aggregation = true", "a sum needs a cohort that meets"),
        ("[limits]\npoll_min_s = 60.0\npoll_max_s = 30.0", "set poll_max_s to at least poll_min_s"),
        ("[agregation]\nrule = 'mean'", "did you mean 'aggregation'?"),
        ("[adapter]\ninit = 'continu'", "adapter.init is 'continu'"),
    ],
)
def test_a_mistake_is_named_with_its_fix(tmp_path: Path, line: str, words: str):
    with pytest.raises((BadSetting, UnknownName)) as caught:
        read(tmp_path, SMALL + line)

    assert words in told(caught.value)
    assert "fix: " in told(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path):
    with pytest.raises(PotluckError) as caught:
        read(tmp_path, SMALL + "[training]\nsteps = -4\nbatch = 0\n[codec]\nnmae = 'int8'")

    words = told(caught.value)
    assert all(part in words for part in ("training.steps", "training.batch", "codec.nmae"))


def test_a_missing_table_is_named(tmp_path: Path):
    with pytest.raises(BadSetting, match="model is missing"):
        read(tmp_path, '[run]\nname = "x"')


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path: Path):
    with pytest.raises(BadSetting, match="line 2"):
        read(tmp_path, "[run]\nname = = 3")


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(BadSetting, match="No such file"):
        Recipe.read(tmp_path / "nowhere.toml")


def test_a_range_in_a_module_name_stands_for_its_numbers(tmp_path: Path):
    recipe = read(tmp_path, SMALL + 'modules = {"layers.{0..2}.q" = [4, 6], "head" = [2, 2]}')

    assert recipe.modules() == {"head": (2, 2), "layers.0.q": (4, 6), "layers.1.q": (4, 6), "layers.2.q": (4, 6)}


@pytest.mark.parametrize("name", ["a.{3..1}", "a.{0..1}.{0..1}"])
def test_a_range_that_makes_no_sense_is_refused(tmp_path: Path, name: str):
    with pytest.raises(BadSetting):
        read(tmp_path, SMALL + f'modules = {{"{name}" = [4, 6]}}').modules()


def test_a_peer_cannot_make_us_build_a_million_modules(tmp_path: Path):
    with pytest.raises(BadSetting, match="at most 10,000"):
        read(tmp_path, SMALL + 'modules = {"a.{0..9999}" = [4, 6], "b.{0..9999}" = [4, 6]}').modules()


def test_a_module_range_is_counted_before_it_is_made(tmp_path: Path):
    """Eight kilobytes off the wire once took 400 MB to refuse."""
    modules = ", ".join(f'"m{i}.{{0..9999}}.q" = [1, 1]' for i in range(300))
    recipe = read(tmp_path, SMALL + f"modules = {{{modules}}}")

    tracemalloc.start()
    with pytest.raises(BadSetting, match="at most 10,000"):
        recipe.modules()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 10_000_000


def told_by(**aggregation: object) -> str:
    """Return a recipe as a coordinator offers it, with that table [aggregation]."""
    whole = json.loads(Recipe.parse(json.dumps(TABLES)).to_json())
    whole["aggregation"] |= aggregation
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))


TABLES = {"run": {"name": "small"}, "model": {"base": "somebody/some-model"}}
NEWER = {"rule": "from_2031", "weights": ["quorum"], "outer": "sideways", "committee": {"size": 3, "of": ["a", "b"]}}


def test_a_client_reads_a_recipe_whose_way_of_combining_it_is_too_old_to_know():
    """It needs none of it; and its consent must name the digest that the coordinator has."""
    text = told_by(**NEWER)

    recipe = Recipe.offered(text)

    assert recipe.to_json() == text
    assert recipe.digest() == hashlib.sha256(text.encode()).digest()
    assert recipe.moves(0) == recipe.moves(1) == "both"
    assert (recipe.init, recipe.master_rank) == ("continue", 32)


@pytest.mark.parametrize("key", NEWER)
def test_whoever_hosts_must_know_how_to_combine(key: str):
    with pytest.raises(UnknownName):
        Recipe.parse(told_by(**{key: NEWER[key]}))


def test_what_a_client_does_itself_it_must_know_all_of():
    whole = json.loads(told_by())
    whole["training"]["half_speed"] = True

    with pytest.raises(UnknownName, match=r"training\.half_speed"):
        Recipe.offered(json.dumps(whole))


@pytest.mark.parametrize(
    ("hostile", "updates", "f"),
    [(0.2, 4, 0), (0.2, 5, 1), (0.2, 9, 1), (0.2, 10, 2), (0.29, 100, 29), (0.0, 50, 0), (0.49, 3, 1)],
)
def test_the_share_of_hostile_updates_is_rounded_down_to_a_number(hostile: float, updates: int, f: int):
    """0.29 · 100 is 28.999999999999996 in binary."""
    recipe = Recipe.parse(json.dumps(TABLES | {"aggregation": {"hostile": hostile, "weights": ["uniform"]}}))

    assert recipe.pipeline(updates).f == f


@pytest.mark.parametrize("cohort", [*range(1, 31), 64, 65, 1_000])
def test_the_default_works_with_any_number_of_updates(cohort: int):
    recipe = Recipe.parse(json.dumps(TABLES | {"aggregation": {"cohort": cohort}}))

    assert recipe.pipeline().weights == ("examples", "staleness", "cap", "norm_bound", "nnm", "geomedian")
    assert recipe.pipeline().f == cohort // 5


BULYAN = {"rule": "bulyan", "hostile": 0.2}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (BULYAN | {"cohort": 10}, "a round of 10 updates, of which 2 may be hostile, would be refused"),
        (BULYAN | {"cohort": 10}, "needs at least 11"),
        (BULYAN | {"mode": "synchronous", "cohort": 11, "minimum": 9}, "a round of 10 updates"),
        (
            {"weights": ["uniform", "krum"], "hostile": 0.4, "cohort": 5},
            "5 updates, of which 2 may be hostile, would be",
        ),
        ({"weights": ["examples", "multikrum"]}, "state 10000 examples each, would be refused: the heaviest 1 of 8"),
        ({"weights": ["examples", "multikrum"]}, "put the weight step 'cap' before it"),
        ({"weights": ["examples", "fltrust"]}, "compares with training on trusted data, and a coordinator has none"),
        ({"weights": ["nnm", "examples"]}, "put factors such as 'examples' before every step"),
        ({"mode": "synchronous", "minimum": 9}, "aggregation.minimum is 9 and cohort is 8"),
        ({"rule": "fedsa"}, "aggregation.rule is 'fedsa', which needs a B that is there already"),
        ({"rule": "fedsb"}, "aggregation.rule is 'fedsb', which needs a B that is there already"),
        ({"hostile": 0.5}, "aggregation.hostile is 0.5"),
    ],
)
def test_a_round_that_would_be_refused_is_refused_before_the_run(table: dict[str, object], words: str):
    """Rounds that are given up waste what volunteers do; so do those that a single claim can stop."""
    with pytest.raises(BadSetting) as caught:
        Recipe.parse(json.dumps(TABLES | {"aggregation": table}))

    assert words in told(caught.value)
    assert "fix: " in told(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        BULYAN | {"cohort": 11},
        BULYAN | {"mode": "synchronous", "cohort": 9, "minimum": 7},
        {"weights": ["examples", "cap", "multikrum"]},
        {"weights": ["examples", "multikrum"], "hostile": 0.0},
        {"rule": "median", "weights": ["uniform"]},
    ],
)
def test_a_round_that_works_is_let_through(table: dict[str, object]):
    assert Recipe.parse(json.dumps(TABLES | {"aggregation": table})).pipeline().stages()


def fields(model: type[BaseModel], path: str = "") -> list[tuple[str, str | None]]:
    """Return every field below *model* with its help."""
    found = []
    for name, field in model.model_fields.items():
        found.append((f"{path}{name}", field.description))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += fields(field.annotation, f"{path}{name}.")
    return found


def test_every_setting_has_help():
    assert not [name for name, text in fields(Recipe) if not text]


def test_the_documented_settings_are_the_settings():
    """docs/recipe.md names every setting, so that nobody has to read the code for one."""
    page = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text("utf-8")

    assert not [name for name, _ in fields(Recipe) if "." in name and f"`{name}`" not in page]


def test_the_example_in_the_documentation_is_a_recipe():
    page = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text("utf-8")
    example = page.split("```toml\n")[1].split("```")[0]

    assert tomllib.loads(example)["run"]["name"]
    assert Recipe.parse(json.dumps(tomllib.loads(example))).training.steps == 6
