"""The loop over simulated time: a coordinator's decisions, the same bits again, and where a killed run goes on."""

import hashlib
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from full_disks import files_no_larger_than
from potluck.aggregation import State, aggregate, encode, from_deltas, start
from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.client.errors import DiskFull
from potluck.client.lessons import Lesson, Term, all_trained
from potluck.client.work import order_of
from potluck.coordinator.checkpoints import Checkpoint
from potluck.coordinator.site import plan_of
from potluck.simulations.reports.report import write_report
from potluck.simulations.reports.runs import read_run
from potluck.simulations.rows import RoundRow
from potluck.simulations.running.engines import numbers_of, shared_out
from potluck.simulations.running.fleet import LocalFleet
from potluck.simulations.running.kept import AnotherRun, Asked
from potluck.simulations.running.play import Stalled
from potluck.simulations.running.run import Order, Simulation, simulation
from potluck.simulations.running.standing import Kind
from potluck.simulations.worlds.errors import Impossible
from potluck.simulations.worlds.tables import Scenario
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import Manifest, decode_update
from toy_engine import ToyEngine, toy_recipe, toy_scenario

SYNCHRONOUS = {"mode": "synchronous", "cohort": 4, "minimum": 2, "over_selection": 1.5, "deadline_s": 600.0}
TICKS = {"poll_min_s": 1.0, "poll_max_s": 5.0}


def begun(
    root: Path,
    recipe: Recipe,
    scenario: Scenario,
    *,
    engine: ToyEngine | None = None,
    resume: bool = False,
    clients: int = 12,
    **asked: object,
) -> Simulation:
    wanted = Asked(clients=clients, at_once=5, measured=6, **asked)  # type: ignore[arg-type]
    fleet = LocalFleet(engine or ToyEngine())
    return simulation(root, Order(recipe, scenario, wanted, resume), fleet)


def told(rows: list[RoundRow]) -> list[RoundRow]:
    """Return *rows* without what differs from machine to machine."""
    return [replace(row, cpu_s=0.0, wall_s=0.0, **_no_nan(row)) for row in rows]


def _no_nan(row: RoundRow) -> dict[str, float]:
    names = ("loss", "loss_worst_decile", "truncation")
    return {name: -1.0 for name in names if math.isnan(getattr(row, name))}


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_every_round_that_is_played_makes_a_version(tmp_path: Path, mode: str):
    """And is a run that reports can be made of."""
    recipe = toy_recipe(aggregation=SYNCHRONOUS if mode == "synchronous" else {"cohort": 4}, limits=TICKS)
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path))

    rows = list(run.play(5))

    assert [(row.round, row.version, row.ended, row.updates) for row in rows] == [
        (n, n, "COMMITTED", 4) for n in range(1, 6)
    ]
    assert all(a.ended_h <= b.began_h or mode == "asynchronous" for a, b in pairwise(rows))
    assert all(row.loss == pytest.approx(3.0 / (1 + row.version) + 0.08, abs=0.02) for row in rows)
    found = read_run(tmp_path / "run")
    assert found.rounds == tuple(rows)
    assert Counter(row.outcome for row in found.updates)["counted"] == 20
    assert sum(row.counted for row in found.clients) == 20
    assert write_report(tmp_path / "run").exists()


def test_a_synchronous_round_hands_out_as_many_leases_as_it_has_seats(tmp_path: Path):
    recipe = toy_recipe(aggregation=SYNCHRONOUS, limits=TICKS)
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path))

    rows = list(run.play(4))

    assert [row.leases for row in rows] == [6] * 4
    late = [row for row in run.table.rows.updates if row.outcome == "late"]
    assert all(row.version < row.round for row in late)


def test_who_is_late_in_an_asynchronous_run_counts_less(tmp_path: Path):
    """Weights of updates with the same examples fall with their staleness."""
    devices = [
        {"name": "fast", "share": 0.5, "tokens_per_s": 500.0, "up_mbit_s": 50.0, "down_mbit_s": 50.0, "spread": 0.0},
        {"name": "slow", "share": 0.5, "tokens_per_s": 20.0, "up_mbit_s": 50.0, "down_mbit_s": 50.0, "spread": 0.0},
    ]
    recipe = toy_recipe(aggregation={"cohort": 4, "weights": ["staleness"]}, limits=TICKS)
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path, devices=devices))
    list(run.play(8))

    counted = [row for row in run.table.rows.updates if row.outcome == "counted"]
    stale = [row for row in counted if row.staleness]
    assert stale
    for row in stale:
        fresh = [one.weight for one in counted if one.round == row.round and one.staleness < row.staleness]
        assert all(row.weight < weight for weight in fresh)


def test_a_version_is_the_sum_of_the_updates_as_they_travelled(tmp_path: Path):
    """The first round again, by hand: trained, encoded, decoded, in the order of their digests, and combined."""
    recipe = toy_recipe(aggregation=SYNCHRONOUS, limits=TICKS, codec={"name": "int8"})
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path))
    list(run.play(1))

    seed = plan_of(recipe).seed_of(0)
    adapter = recipe.adapter
    first = start({}, recipe.modules(), init=recipe.init, rank=adapter.rank, scale=adapter.scale, seed=seed).trainable
    messages = {}
    for row in run.table.rows.updates:
        lesson = Lesson(tmp_path / "run" / "data" / row.client, order_of(row.client, seed))
        (trained,) = all_trained(ToyEngine().train(Term(recipe, 0, seed, b""), [lesson]))
        messages[encode(trained.deltas, "int8", lossless=True)] = trained
    updates = []
    for data in sorted(messages, key=lambda data: hashlib.sha256(data).digest()):
        decoded = decode_update(data, Manifest.of(recipe, 0))
        made = from_deltas(decoded, first, examples=messages[data].examples, steps=messages[data].steps)
        updates.append(replace(made, key=hashlib.sha256(data).digest() + bytes(8)))
    made = aggregate(updates, {}, recipe.pipeline(4), State())

    assert hashlib.sha256(Checkpoint(made.master, made.state).to_bytes()).hexdigest() == run.digest


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_client_whose_training_fails_gives_its_lease_up_and_the_others_go_on(tmp_path: Path, mode: str):
    """As a volunteer's program does; it comes again for the next version."""
    recipe = toy_recipe(aggregation=SYNCHRONOUS if mode == "synchronous" else {"cohort": 4}, limits=TICKS)
    engine = ToyEngine(fails=lambda term, lesson: term.version == 1 and lesson.order % 3 == 0)
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path), engine=engine)

    rows = list(run.play(4))

    assert [row.updates for row in rows] == [4] * 4
    lost = [row for row in run.table.rows.updates if row.outcome == "dropped"]
    assert lost
    assert {(row.version, row.reason) for row in lost} == {(1, "the loss is nan at step 1 of 3")}
    counted = {(row.client, row.version) for row in run.table.rows.updates if row.outcome == "counted"}
    assert not counted & {(row.client, row.version) for row in lost}
    at, people = run.table.standing, run.table.world.people
    coming = {event.subject for event in at.events if event.kind is Kind.CHECK_IN}
    coming |= {lease.person for lease in (*at.leases.values(), *at.waiting)}
    assert {row.client for row in lost} <= {people[person].name for person in coming}


def test_a_run_whose_clients_all_fail_says_why(tmp_path: Path):
    recipe = toy_recipe(aggregation={"cohort": 4}, limits=TICKS)
    engine = ToyEngine(fails=lambda _term, _lesson: True)
    run = begun(tmp_path / "run", recipe, toy_scenario(tmp_path), engine=engine)

    with pytest.raises(Stalled, match="training failed for 12: the loss is nan at step 1 of 3"):
        list(run.play(3))


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
@pytest.mark.parametrize(
    "codec", [{"name": "int8"}, {"name": "sparse2bit", "error_feedback": True}], ids=["int8", "fed"]
)
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path: Path, mode: str, codec: dict[str, object]):
    """Stopped in the middle of a round, in a world that comes and goes: same master, same rows."""
    tables = {"churn": {"online_h": 0.5, "offline_h": 0.2}, "dropout": 0.1}
    scenario = toy_scenario(tmp_path, availability=tables)
    rounds = SYNCHRONOUS if mode == "synchronous" else {"cohort": 4}
    recipe = toy_recipe(aggregation=rounds, limits=TICKS, codec=codec)
    whole = begun(tmp_path / "whole", recipe, scenario)
    expected = list(whole.play(7))

    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    cut = begun(tmp_path / "cut", recipe, scenario, engine=ToyEngine(on_train=stop))
    with pytest.raises(KeyboardInterrupt):
        list(cut.play(7))
    resumed = begun(tmp_path / "cut", recipe, scenario, resume=True)
    assert 0 < resumed.played < 7
    list(resumed.play(7))

    assert resumed.digest == whole.digest
    assert told(resumed.table.rows.rounds) == told(expected)
    assert [row.client for row in resumed.table.rows.updates] == [row.client for row in whole.table.rows.updates]


def test_leases_of_one_version_are_trained_together(tmp_path: Path):
    """Twelve people who are there from the start are trained in groups of five, as was asked."""
    engine = ToyEngine()
    run = begun(tmp_path / "run", toy_recipe(limits=TICKS), toy_scenario(tmp_path), engine=engine)
    list(run.play(1))

    assert engine.groups[:3] == [5, 5, 2]


def test_whoever_gives_up_sends_nothing_and_the_round_goes_on(tmp_path: Path):
    scenario = toy_scenario(tmp_path, availability={"dropout": 0.3})
    run = begun(tmp_path / "run", toy_recipe(aggregation=SYNCHRONOUS, limits=TICKS), scenario)
    rows = list(run.play(6))

    dropped = [row for row in run.table.rows.updates if row.outcome == "dropped"]
    assert len(dropped) == sum(row.dropped for row in rows)
    assert dropped
    assert all(row.bytes_up == 0 and row.tokens == 0 for row in dropped)
    assert all(row.ended == "COMMITTED" for row in rows)


def test_a_round_with_too_few_at_the_deadline_is_given_up(tmp_path: Path):
    """Machines so slow that nobody is done in time."""
    slow = [{"name": "slow", "tokens_per_s": 0.1, "up_mbit_s": 1.0, "down_mbit_s": 1.0}]
    run = begun(
        tmp_path / "run", toy_recipe(aggregation=SYNCHRONOUS, limits=TICKS), toy_scenario(tmp_path, devices=slow)
    )
    rows = list(run.play(2))

    assert [row.ended for row in rows] == ["ABANDONED"] * 2
    assert [row.version for row in rows] == [0, 0]
    assert rows[0].ended_h - rows[0].began_h == pytest.approx(600 / 3600)
    assert "less than the minimum" in rows[0].reason


@pytest.mark.parametrize("attack", ["sign_flip", "alie", "gaussian", "nan"])
def test_hostile_people_send_what_the_attack_makes_of_the_honest_updates(tmp_path: Path, attack: str):
    scenario = toy_scenario(tmp_path, attack={"name": attack, "share": 0.25, "beyond": True})
    rounds = {"cohort": 10, "weights": ["examples"]}
    run = begun(tmp_path / "run", toy_recipe(aggregation=rounds, limits=TICKS), scenario)
    honest = begun(tmp_path / "honest", toy_recipe(aggregation=rounds, limits=TICKS), toy_scenario(tmp_path))
    rows = list(run.play(2))
    list(honest.play(2))

    hostile = [row for row in run.table.rows.updates if row.hostile and row.outcome in {"counted", "rejected"}]
    assert hostile
    assert run.digest != honest.digest
    if attack == "nan":
        assert {row.outcome for row in hostile} == {"rejected"}
        assert [row.hostile for row in rows] == [0, 0]
    else:
        assert {row.outcome for row in hostile} == {"counted"}
        assert sum(row.hostile for row in rows) == len(hostile)


def test_people_of_several_ranks_take_part_in_one_round(tmp_path: Path):
    ranks = [{"rank": 1, "share": 0.5}, {"rank": 4, "share": 0.5}]
    run = begun(tmp_path / "run", toy_recipe(limits=TICKS), toy_scenario(tmp_path, ranks=ranks))
    rows = list(run.play(3))

    assert [row.updates for row in rows] == [4, 4, 4]
    assert {row.rank for row in read_run(tmp_path / "run").clients} == {1, 4}


def test_a_run_in_which_nothing_can_come_any_more_says_so(tmp_path: Path):
    """All give up, and no deadline ends the round."""
    scenario = toy_scenario(tmp_path, availability={"dropout": 0.9999})
    run = begun(tmp_path / "run", toy_recipe(limits=TICKS), scenario)
    with pytest.raises(Stalled, match=r"round 1 has 0 of 4 updates"):
        list(run.play(1))


def test_a_folder_with_a_run_is_not_overwritten_and_one_of_another_recipe_is_not_gone_on_with(tmp_path: Path):
    recipe, scenario = toy_recipe(limits=TICKS), toy_scenario(tmp_path)
    list(begun(tmp_path / "run", recipe, scenario).play(1))

    with pytest.raises(AnotherRun, match="holds a run already"):
        begun(tmp_path / "run", recipe, scenario)
    with pytest.raises(AnotherRun, match="run of another recipe"):
        begun(tmp_path / "run", toy_recipe(training={"steps": 3}, limits=TICKS), scenario, resume=True)
    with pytest.raises(AnotherRun, match="no run to go on with"):
        begun(tmp_path / "none", recipe, scenario, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear", "utf-8")
    with pytest.raises(AnotherRun, match="is not empty"):
        begun(tmp_path / "mine", recipe, scenario)


def test_an_impossible_scenario_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(Impossible, match="3 clients, and a round waits for updates of 4"):
        begun(tmp_path / "run", toy_recipe(), toy_scenario(tmp_path), clients=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_full_disk_costs_one_round_and_nothing_else(tmp_path: Path, mode: str):
    """The kernel refuses files over 8 KiB, as the state of 80 clients is; with room again the run goes on as it was."""
    recipe = toy_recipe(aggregation=SYNCHRONOUS if mode == "synchronous" else {"cohort": 4}, limits=TICKS)
    scenario = toy_scenario(tmp_path, people=80)
    whole = begun(tmp_path / "whole", recipe, scenario, clients=80)
    list(whole.play(4))

    run = begun(tmp_path / "run", recipe, scenario, clients=80)
    rows = run.play(4)
    next(rows)
    with files_no_larger_than(8_192), pytest.raises(DiskFull, match="no room"):
        next(rows)
    resumed = begun(tmp_path / "run", recipe, scenario, resume=True, clients=80)
    assert resumed.played == 1
    list(resumed.play(4))

    assert resumed.digest == whole.digest
    assert not list((tmp_path / "run").rglob("*.new"))


def test_a_damaged_state_is_an_error_with_a_fix(tmp_path: Path):
    recipe, scenario = toy_recipe(limits=TICKS), toy_scenario(tmp_path)
    list(begun(tmp_path / "run", recipe, scenario).play(1))
    (tmp_path / "run" / "state" / "standing.json").write_text('{"clients": 3}', "utf-8")

    with pytest.raises(PotluckError, match="is damaged"):
        begun(tmp_path / "run", recipe, scenario, resume=True)


@pytest.mark.parametrize(
    ("asked", "threads", "cores", "workers"), [(None, 1, 8, 8), (None, 3, 8, 2), (1, 8, 8, 1), (2, 4, 8, 2)]
)
def test_workers_use_all_cores_unless_fewer_are_asked_for(asked: int | None, threads: int, cores: int, workers: int):
    assert shared_out(asked, threads, cores) == workers


@pytest.mark.parametrize(("asked", "threads"), [(9, 1), (None, 9), (3, 3)])
def test_cores_are_never_promised_twice(asked: int | None, threads: int):
    with pytest.raises(BadSetting, match=f"{asked or 1} workers with {threads} threads each, and 8 cores"):
        shared_out(asked, threads, 8)


@pytest.mark.parametrize(
    ("dtype", "engine", "width", "expected"),
    [
        ("auto", "batched", 128, "float32"),
        ("auto", "batched", 576, "native"),
        ("auto", "sequential", 128, "native"),
        ("bfloat16", "batched", 128, "bfloat16"),
    ],
)
def test_small_bases_are_batched_in_float32_unless_one_says_otherwise(dtype, engine, width, expected):
    modules = {"layer.q_proj": [width, width], "layer.down_proj": [width, 3 * width]}
    recipe = toy_recipe(model={"base": "toy", "digest": "ab" * 32, "modules": modules})

    assert numbers_of(dtype, engine, recipe) == expected
