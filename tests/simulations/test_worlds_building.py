"""From a scenario to people: the same bytes each time, shares as they were asked for, and nothing impossible."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carried import carried
from full_disks import files_no_larger_than
from potluck.client.data import read
from potluck.simulations.worlds.base import World
from potluck.simulations.worlds.building import build, check
from potluck.simulations.worlds.devices import DEVICES
from potluck.simulations.worlds.errors import CannotWrite, EmptyPartition, Impossible, TooLittleText
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe


def recipe(**tables: Mapping[str, Any]) -> Recipe:
    """Return a recipe whose rounds close with one update."""
    rounds = {"cohort": 1, "weights": ["examples"], **tables.pop("aggregation", {})}
    return Recipe.parse(json.dumps({"run": {"name": "x"}, "model": {"base": "b"}, "aggregation": rounds, **tables}))


def scene(**tables: object) -> Scenario:
    return Scenario.parse(json.dumps({"name": "made up", **tables}))


SUMMED = {"rule": "ffa", "weights": ["uniform"], "hostile": 0.0, "mode": "synchronous", "cohort": 12}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"aggregation": SUMMED, "privacy": {"secure_aggregation": True}}, "a simulation adds up single updates"),
        ({"aggregation": SUMMED, "privacy": {"differential": {"unit": "example"}}}, "neither ledgers nor noise"),
    ],
)
def test_a_protection_that_a_simulation_does_not_play_is_refused(tables: dict[str, Any], words: str):
    """Its losses would be those of a run without it."""
    with pytest.raises(Impossible, match=words):
        check(scene(), recipe(**tables), 20)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return carried(tmp_path / "cache")


def bytes_of(world: World) -> str:
    """Return a digest of everything that people hold, and of who they are."""
    digest = hashlib.sha256()
    for person in world.people:
        digest.update(repr((person.name, person.device, person.rank, person.hostile)).encode())
        for file in sorted(person.data.rglob("*")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


RICH: Mapping[str, Any] = {
    "devices": [{"name": "phone", "share": 0.5}, {"name": "laptop", "share": 0.3}, {"name": "desktop", "share": 0.2}],
    "ranks": [{"rank": 2, "share": 0.4}, {"rank": 16, "share": 0.6}],
    "attack": {"name": "ipm", "share": 0.2, "settings": {"tau": 3.0}},
}


@pytest.mark.parametrize("kind", ["natural", "iid", "label_skew", "quantity_skew"])
def test_the_same_scenario_gives_the_same_people_and_the_same_bytes(tmp_path: Path, cache: Path, kind: str):
    """A resumed run builds its world again, and a published one can be repeated."""
    made = scene(partition={"kind": kind}, **RICH)
    first = build(made, recipe(), 10, tmp_path / "a", cache=cache)
    second = build(made, recipe(), 10, tmp_path / "b", cache=cache)
    again = build(made, recipe(), 10, tmp_path / "a", cache=cache)
    other = build(made.model_copy(update={"seed": 1}), recipe(), 10, tmp_path / "c", cache=cache)

    assert first == again
    assert bytes_of(first) == bytes_of(second) == bytes_of(again)
    assert bytes_of(first) != bytes_of(other)


def test_shares_are_kept_to_the_person(tmp_path: Path, cache: Path):
    world = build(scene(**RICH), recipe(), 10, tmp_path, cache=cache)

    assert Counter(p.device.name for p in world.people) == {"phone": 5, "laptop": 3, "desktop": 2}
    assert Counter(p.rank for p in world.people) == {2: 4, 16: 6}
    assert sum(p.hostile for p in world.people) == 2
    assert (world.attack, world.attack_settings, world.seed) == ("ipm", {"tau": 3.0}, 0)


def test_a_persons_text_is_its_owners_and_lies_in_its_own_folder(tmp_path: Path, cache: Path):
    """ROLE i says i + 1 things, and ROLE 0 too little to take part."""
    world = build(scene(), recipe(), 11, tmp_path, cache=cache)

    assert sorted(p.name for p in world.people) == sorted(f"play-{i % 2}-role-{i}" for i in range(1, 12))
    for person in world.people:
        assert person.data == tmp_path / "data" / person.name
        assert len(read(person.data).samples) == int(person.name.rpartition("-")[2]) + 1


def test_two_owners_with_names_alike_are_two_people(tmp_path: Path):
    for owner in ("Nurse", "NURSE!"):
        (tmp_path / "text" / owner).mkdir(parents=True)
        (tmp_path / "text" / owner / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', "utf-8")
    world = build(scene(text={"source": str(tmp_path / "text")}), recipe(), 2, tmp_path / "run")

    assert sorted(p.name for p in world.people) == ["nurse", "nurse--2"]
    assert len({p.data for p in world.people}) == 2


def test_machines_of_a_class_differ_by_the_spread(tmp_path: Path, cache: Path):
    """Medians are the class's, and logarithms scatter as the table says; without spread all are equal."""
    iid = {"kind": "iid"}
    text = {"source": "trec"}
    spread = build(scene(partition=iid, text=text), recipe(), 120, tmp_path / "a", cache=cache)
    equal = [{"name": "laptop", "spread": 0.0}]
    same = build(scene(partition=iid, text=text, devices=equal), recipe(), 120, tmp_path / "b", cache=cache)

    speeds = np.log([p.device.tokens_per_s for p in spread.people])
    lines = np.log([p.device.up_bytes_per_s for p in spread.people])
    assert np.exp(np.median(speeds)) == pytest.approx(DEVICES["laptop"].tokens_per_s, rel=0.1)
    assert speeds.std() == pytest.approx(0.25, rel=0.2)
    assert abs(np.corrcoef(speeds, lines)[0, 1]) < 0.25
    assert {p.device for p in same.people} == {DEVICES["laptop"]}


def test_a_device_of_ones_own_has_the_speeds_that_were_set(tmp_path: Path, cache: Path):
    table = {"name": "my machine", "tokens_per_s": 77.0, "up_mbit_s": 8.0, "down_mbit_s": 80.0, "spread": 0.0}
    (person,) = build(scene(devices=[table]), recipe(), 1, tmp_path, cache=cache).people

    assert (person.device.train_s(770), person.device.upload_s(10**6), person.device.download_s(10**7)) == (10, 1, 1)


def test_a_speed_that_is_set_replaces_that_of_the_class(tmp_path: Path, cache: Path):
    (person,) = build(
        scene(devices=[{"name": "laptop", "tokens_per_s": 77.0, "spread": 0.0}]), recipe(), 1, tmp_path, cache=cache
    ).people

    assert person.device == replace(DEVICES["laptop"], tokens_per_s=77.0)


@pytest.mark.parametrize(
    ("tables", "clients", "words", "fix"),
    [
        ({"attack": {"name": "nan", "share": 0.3}}, 10, "share is 0.3, and the recipe withstands 0.2", "attack.beyond"),
        ({"attack": {"name": "nan", "share": 0.1}}, 9, "0.1 of 9 clients is nobody", "at least 10 clients"),
        ({"ranks": [{"rank": 64, "share": 1.0}]}, 10, "ranks 64, and the shared adapter's is 32", "master_rank"),
        ({}, 0, "0 clients", "at least 1 clients"),
    ],
)
def test_what_contradicts_the_recipe_or_the_number_is_refused(tables, clients, words, fix):
    with pytest.raises(Impossible, match=words) as caught:
        check(scene(**tables), recipe(), clients)

    assert fix in caught.value.__notes__[0]


def test_fewer_clients_than_close_a_round_are_refused():
    """A client counts once in a round, so eight updates are of eight clients; a deadline is content with fewer."""
    with pytest.raises(Impossible, match=r"7 clients, and a round waits for updates of 8, one from each: .*\.cohort"):
        check(scene(), recipe(aggregation={"cohort": 8}), 7)
    synchronous = recipe(aggregation={"cohort": 8, "mode": "synchronous", "minimum": 3})
    with pytest.raises(Impossible, match=r"2 clients, and a round waits for updates of 3, one from each: .*\.minimum"):
        check(scene(), synchronous, 2)
    assert check(scene(), recipe(aggregation={"cohort": 8}), 8) == check(scene(), synchronous, 3) == 0


def test_more_clients_than_the_recipe_admits_are_refused():
    with pytest.raises(Impossible, match="21 clients, and the recipe admits 20"):
        check(scene(), recipe(admission={"max_members": 20}), 21)


def test_more_than_the_recipe_withstands_is_allowed_to_whom_asks_for_it():
    table = {"name": "nan", "share": 0.3, "beyond": True}

    assert check(scene(attack=table), recipe(), 10) == 3


@pytest.mark.parametrize("rule", ["fedit", "ffa", "median"])
def test_mixed_ranks_under_a_rule_that_wants_one_rank_are_refused(rule: str):
    weights = {"rule": rule, "weights": ["uniform"]}
    with pytest.raises(Impossible, match=f"'{rule}', which wants the recipe's rank 8"):
        check(scene(ranks=[{"rank": 4, "share": 0.5}, {"rank": 8, "share": 0.5}]), recipe(aggregation=weights), 10)
    assert check(scene(ranks=[{"rank": 8, "share": 1.0}]), recipe(aggregation=weights), 10) == 0


def test_a_world_in_which_nobody_is_ever_online_is_refused(tmp_path: Path, cache: Path):
    """The traced person sleeps at the time of day at which the others come, each day again."""
    (tmp_path / "trace.csv").write_text("person,from_h,to_h\na,3,5\n", "utf-8")
    availability = {
        "trace": {"path": str(tmp_path / "trace.csv"), "repeats_h": 24.0},
        "diurnal": {"from_h": 20.0, "hours": 2.0, "spread_h": 0.0, "jitter_h": 0.0, "starts_utc_h": 0.0},
    }
    with pytest.raises(Impossible, match="none of 3 clients is ever online"):
        build(scene(availability=availability), recipe(), 3, tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists()


def test_more_clients_than_the_text_can_fill_are_refused(tmp_path: Path, cache: Path):
    with pytest.raises(TooLittleText, match="12 clients, and 11 of 12 owners"):
        build(scene(), recipe(), 12, tmp_path, cache=cache)


def test_an_empty_partition_is_refused_with_the_name_of_the_client(tmp_path: Path, cache: Path):
    """Questions have prompts, and this recipe reads running text."""
    made = scene(text={"source": "trec"}, partition={"kind": "iid"})
    with pytest.raises(EmptyPartition, match="client-00000 would have nothing to learn from, in the format 'chat'"):
        build(made, recipe(data={"format": "chat"}), 4, tmp_path, cache=cache)


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path):
    """ROLE 29 says 10 KB; the kernel refuses what is over 8."""
    cache = carried(tmp_path / "cache", roles=30)
    with files_no_larger_than(8_192), pytest.raises(CannotWrite, match="File too large") as caught:
        build(scene(), recipe(), 29, tmp_path / "run", cache=cache)

    assert "free some space" in caught.value.__notes__[0]
