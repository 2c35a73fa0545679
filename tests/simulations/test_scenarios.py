"""Scenarios: read strictly, found by name, and those that come with the program can all be built."""

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from carried import carried
from potluck.aggregation.errors import BadSetting, PotluckError, UnknownName
from potluck.simulations.worlds.availability import HOUR_S, present
from potluck.simulations.worlds.base import NEVER
from potluck.simulations.worlds.building import build
from potluck.simulations.worlds.devices import DEVICES
from potluck.simulations.worlds.scenarios import scenario, shipped
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
RECIPE = Recipe.parse('{"run": {"name": "x"}, "model": {"base": "b"}}')


def parse(**tables: object) -> Scenario:
    return Scenario.parse(json.dumps({"name": "made up", **tables}))


@pytest.mark.parametrize("name", shipped())
def test_every_scenario_that_comes_with_the_program_is_a_world(name: str, tmp_path: Path):
    """On made-up text of the same form, with as many people as that can fill; some come within three days."""
    made = scenario(name)
    clients = min(made.clients, 40)
    world = build(made, RECIPE, clients, tmp_path / "run", cache=carried(tmp_path / "cache", roles=41))

    assert made.name == name
    assert made.about
    assert len(world.people) == clients
    first = [world.availability.next_online_s(person, 0.0) for person in range(clients)]
    assert sum(moment < 72 * HOUR_S for moment in first) > clients / 2


def test_a_scenario_that_is_written_down_is_read_as_the_same(tmp_path: Path):
    """A run's folder keeps its scenario as JSON."""
    for name in shipped():
        path = tmp_path / f"{name}.json"
        path.write_text(scenario(name).model_dump_json(), "utf-8")
        assert scenario(str(path)) == scenario(name)


def test_paths_are_from_the_scenarios_folder(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\n[text]\nsource = "notes"\n[availability.trace]\npath = "trace.csv"\n', "utf-8"
    )
    read = scenario(str(tmp_path / "mine.toml"))

    assert read.text.source == str(tmp_path / "notes")
    assert read.availability.trace is not None
    assert read.availability.trace.path == str(tmp_path / "trace.csv")


def test_an_unknown_scenario_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="'evening-laptop'") as caught:
        scenario("evening-laptop")

    assert "did you mean 'evening-laptops'?" in caught.value.__notes__[0]
    assert "phones-at-night" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("tables", "message", "fix"),
    [
        ({"seeds": 1}, "no setting is called seeds", "'seed'"),
        ({"text": {"sauce": "x"}}, "no setting is called text.sauce", "'source'"),
        ({"devices": [{"name": "laptop", "shares": 1.0}]}, "no setting is called devices.0.shares", "'share'"),
        ({"devices": [{"name": "laptop", "share": 0.5}]}, "the shares of devices add up to 0.5", "add up to 1"),
        ({"devices": [{"name": "laptob"}]}, "no device is called 'laptob'", "'laptop'"),
        ({"devices": [{"name": "abacus", "tokens_per_s": 0.1}]}, "no device is called 'abacus'", "up_mbit_s"),
        ({"devices": []}, "devices is empty", "[[devices]]"),
        ({"ranks": [{"rank": 4, "share": 0.9}, {"rank": 8, "share": 0.2}]}, "shares of ranks add up to 1.1", "to 1"),
        ({"partition": {"kind": "label-skew"}}, "partition.kind is 'label-skew'", "PARTITIONS"),
        ({"partition": {"minimum": 1}}, "partition.minimum is 1", "it takes two"),
        (
            {"availability": {"diurnal": {"from_h": 20.0, "hours": 2.0, "day": 2}}},
            "called availability.diurnal.day",
            "'days'",
        ),
        (
            {"availability": {"diurnal": {"from_h": 24.0, "hours": 2.0}}},
            "availability.diurnal.from_h is 24.0",
            "clocks",
        ),
        ({"availability": {"dropout": 1.0}}, "availability.dropout is 1.0", "gives up"),
        ({"availability": {"churn": {"online_h": 0.001, "offline_h": 9.0}}}, "hardly ever online", "1000 times"),
        ({"availability": {"churn": {"online_h": 9e9, "offline_h": 9.0}}}, "hardly ever offline", "1000 times"),
        (
            {"availability": {"diurnal": {"from_h": 1.0, "hours": 2.0, "zones": [{"utc_h": 0, "share": 0.4}]}}},
            "shares of availability.diurnal.zones add up to 0.4",
            "add up to 1",
        ),
        ({"attack": {"name": "mimic", "share": 0.1}}, "no attack is called 'mimic'", "did you mean"),
        ({"attack": {"name": "ipm"}}, "attack.name is 'ipm' and attack.share is 0.0", "set both"),
        ({"attack": {"share": 0.1}}, "attack.name is '' and attack.share is 0.1", "set both"),
        ({"attack": {"name": "ipm", "share": 0.1, "settings": {"taw": 2.0}}}, "'taw'", "leave that setting out"),
        ({"attack": {"name": "ipm", "share": 0.1, "settings": {"tau": -2.0}}}, "tau", ""),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_the_fix(tables, message: str, fix: str):
    with pytest.raises(PotluckError) as caught:
        parse(**tables)

    assert message in str(caught.value)
    assert fix in " ".join(caught.value.__notes__)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("name = mine\n", "utf-8")
    with pytest.raises(BadSetting, match="is not TOML"):
        scenario(str(tmp_path / "bad.toml"))


def test_phones_at_night_rise_and_fall_fourfold_as_published():
    """Four times the people at the busiest hour: Bonawitz et al. 2019, section 9, for a population of one country."""
    made = scenario("phones-at-night")
    pattern = present(made.availability, made.seed)
    hours = [sum(pattern.next_online_s(person, h * HOUR_S) == h * HOUR_S for person in range(600)) for h in range(24)]

    assert 3.0 < max(hours) / min(hours) < 5.0


def test_most_of_those_who_churn_are_gone_within_three_weeks():
    made = scenario("churn")
    pattern = present(made.availability, made.seed)
    left = sum(pattern.next_online_s(person, 504 * HOUR_S) == NEVER for person in range(300))

    assert left > 270


def fields(model: type[BaseModel], path: str = "") -> list[tuple[str, str | None]]:
    """Return every setting below *model* with its help; [[tables]] and tables that may be absent as well."""
    found = []
    for name, field in model.model_fields.items():
        found.append((f"{path}{name}", field.description))
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += fields(kind, f"{path}{name}.")
    return found


def test_every_setting_has_help():
    assert len(fields(Scenario)) > 40
    assert not [name for name, text in fields(Scenario) if not text]


def test_the_documented_settings_are_the_settings():
    """With their help, word for word: docs/simulation.md is never behind."""
    page = PAGE.read_text("utf-8")
    tables = {"text", "partition", "devices", "ranks", "availability", "attack"}
    leaves = [(name, text) for name, text in fields(Scenario) if name not in tables]

    missing = [name for name, text in leaves if f"| `{name}` |" not in page or " ".join(str(text).split()) not in page]
    assert not missing


def test_the_documented_scenarios_devices_and_sources_are_those_that_there_are():
    page = PAGE.read_text("utf-8")

    assert not [name for name in shipped() if f"| `{name}` | {scenario(name).about} |" not in page]
    for device in DEVICES.values():
        up, down = device.up_bytes_per_s / 125_000, device.down_bytes_per_s / 125_000
        assert f"| `{device.name}` | {device.tokens_per_s:,.0f} | {up:g} | {down:g} |" in page


def test_the_example_in_the_documentation_is_a_scenario():
    example = PAGE.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    assert Scenario.parse(json.dumps(tomllib.loads(example))).name
