"""Installed Flower strategies as rules: the numbers of Flower and of NumPy, and refusals where they mean nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp import strategy as installed
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, MultiKrum

from adapters import SHAPES, low_rank
from flower_nodes import answer
from potluck.aggregation import (
    Aggregated,
    BadSetting,
    BadUpdate,
    LowRank,
    Pipeline,
    PotluckError,
    State,
    Update,
    aggregate,
)
from potluck.simulations.flower.grid import LocalGrid, as_server
from potluck.simulations.flower.rule import FlowerRule, aggregate_with_flower, flower_strategy

SCALE = 2.0
Adapter = Mapping[str, LowRank]


def begun(seed: int = 0) -> dict[str, LowRank]:
    rng = np.random.default_rng(seed)
    return {name: low_rank(rng, shape, 3, SCALE) for name, shape in SHAPES.items()}


def trained(start: Adapter, seed: int, factor: str = "b", step: float = 0.1) -> Update:
    """Return an update that trained one factor of *start*; seeds from 90 on are hostile."""
    rng = np.random.default_rng(seed)
    step = 50.0 if seed >= 90 else step
    after = {}
    for name, term in start.items():
        mine = term.b if factor == "b" else term.a
        mine = mine + (step * rng.normal(size=mine.shape)).astype("f4")
        after[name] = LowRank(mine, term.a, SCALE) if factor == "b" else LowRank(term.b, mine, SCALE)
    return Update(after, start, examples=5 + seed % 4)


def values(updates: Sequence[Update], name: str, factor: str = "b") -> np.ndarray:
    """Return (n, …), the trained factor of every update times the scale, in float64."""
    parts = [update.trained[name] for update in updates]
    return np.array([(part.b if factor == "b" else part.a).astype("f8") * SCALE for part in parts])


def master_of(start: Adapter) -> dict[str, LowRank]:
    return {name: LowRank(term.b.astype("f8") * SCALE, term.a.astype("f8")) for name, term in start.items()}


def directly(strategy: FedAvg, updates: Sequence[Update], start: Adapter) -> dict[str, np.ndarray]:
    """Return what *strategy* makes of the trained B of *updates* when it is called as a Flower user calls it."""

    def node(update: Update) -> Callable[[Message], Message]:
        arrays = ArrayRecord({name: Array(values([update], name)[0]) for name in SHAPES})
        return lambda message: answer(message, arrays, num_examples=update.examples)

    begun = ArrayRecord({name: Array(term.b.astype("f8") * SCALE) for name, term in start.items()})
    grid = LocalGrid({place: node(update) for place, update in enumerate(updates)})
    with as_server():
        messages = strategy.configure_train(1, begun, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(1, list(grid.send_and_receive(messages)))
    return {name: array.numpy() for name, array in arrays.items()}


STRATEGIES: dict[str, dict[str, float]] = {
    "FedAvg": {},
    "FedProx": {"proximal_mu": 0.1},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 7},
    "Bulyan": {"num_malicious_nodes": 1},
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedAdam": {"eta": 0.01},
    "FedYogi": {"eta": 0.01},
    "FedAdagrad": {"eta": 0.01},
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_gives_as_a_rule_what_it_gives_to_a_flower_user(name: str):
    start = begun()
    updates = [trained(start, seed) for seed in (1, 2, 3, 4, 5, 6, 7, 95, 96)]

    ours = FlowerRule.named(f"flwr:{name}", settings=STRATEGIES[name]).combine(updates, master_of(start))
    theirs = directly(getattr(installed, name)(**STRATEGIES[name]), updates, start)

    for module, term in start.items():
        assert ours.master[module].dense() == pytest.approx(theirs[module] @ term.a.astype("f8"), rel=1e-9, abs=1e-9)
        assert np.array_equal(ours.master[module].a, term.a)  # the public factor stays what it is
    assert (ours.state.rounds, ours.report.weights, ours.report.total.relative_error) == (1, (), 0.0)


def test_every_installed_strategy_is_a_rule_or_refused_with_a_reason():
    """A new one in a later Flower must be looked at."""
    refused = []
    for name in installed.__all__:
        if name in STRATEGIES or name in ("Result", "Strategy"):
            continue
        with pytest.raises(BadSetting, match=f"Flower's {name} cannot be a rule: it "):
            flower_strategy(name)
        refused.append(name)

    assert len(refused) == 7


def test_fedavg_is_our_ffa_and_our_mean():
    start = begun()
    updates = [trained(start, seed) for seed in (1, 2, 3)]

    flower = aggregate_with_flower(updates, master_of(start), flower_strategy("FedAvg"))

    for rule in ("ffa", "mean"):
        ours = aggregate(updates, master_of(start), Pipeline(rule))
        for name in SHAPES:
            assert flower.master[name].dense() == pytest.approx(ours.master[name].dense(), rel=1e-9, abs=1e-9)
        assert flower.report.norms == pytest.approx(ours.report.norms)


@pytest.mark.parametrize("factor", ["b", "a"])
def test_fedmedian_is_numpys_median_and_our_median(factor: str):
    start = begun()
    updates = [trained(start, seed, factor) for seed in (1, 2, 3, 4, 95)]

    flower = FlowerRule.named("flwr:FedMedian", f=2).combine(updates, master_of(start))

    for name, term in start.items():
        median = np.median(values(updates, name, factor), axis=0)
        frozen = term.a.astype("f8") if factor == "b" else term.b.astype("f8")
        expected = median @ frozen if factor == "b" else frozen @ median
        assert flower.master[name].dense() == pytest.approx(expected, abs=1e-9)
    if factor == "b":
        ours = aggregate(updates, master_of(start), Pipeline("median", weights=("uniform",)))
        assert flower.master["mlp"].dense() == pytest.approx(ours.master["mlp"].dense(), abs=1e-5)


def test_fedtrimmedavg_is_the_mean_between_the_extremes_and_our_trimmed_mean():
    start = begun()
    updates = [trained(start, seed) for seed in (1, 2, 3, 4, 95)]

    flower = FlowerRule.named("FedTrimmedAvg", f=1, settings={"beta": 0.2}).combine(updates, master_of(start))
    ours = aggregate(updates, master_of(start), Pipeline("trimmed_mean", weights=("uniform",), f=1))

    for name, term in start.items():
        middle = np.sort(values(updates, name), axis=0)[1:-1].mean(axis=0)
        assert flower.master[name].dense() == pytest.approx(middle @ term.a.astype("f8"), abs=1e-9)
        assert flower.master[name].dense() == pytest.approx(ours.master[name].dense(), abs=1e-5)


def selected(result: Aggregated, updates: Sequence[Update], start: Adapter) -> int:
    """Return which update's B is the B of the new master."""
    gaps = [
        sum(np.abs(result.master[n].dense() - values([u], n)[0] @ start[n].a.astype("f8")).max() for n in SHAPES)
        for u in updates
    ]
    place = int(np.argmin(gaps))
    assert gaps[place] < 1e-4
    return place


def orthonormal(start: Adapter) -> dict[str, LowRank]:
    """Return *start* with orthonormal rows of A, for which ‖ΔB·A‖ = ‖ΔB‖, up to float32."""
    return {n: LowRank(t.b, np.linalg.qr(t.a.T.astype("f8"))[0].T.astype("f4"), SCALE) for n, t in start.items()}


def test_krum_selects_what_ours_selects_with_the_papers_count_of_neighbours():
    """Flower sums over the n − f − 2 nearest others, as the paper; our default, as ByzFL, over n − f − 1."""
    start = orthonormal(begun())
    chosen: dict[int, list[int]] = {1: [], 2: []}
    theirs = []
    for seed in range(12):
        updates = [trained(start, 12 * seed % 80 + k, step=0.1 * (1 + k % 3)) for k in range(7)]
        theirs.append(selected(FlowerRule.named("Krum", f=2).combine(updates, master_of(start)), updates, start))
        for margin, places in chosen.items():
            pipeline = Pipeline(weights=("uniform", "krum"), f=2, settings={"krum_margin": margin})
            places.append(int(np.argmax(aggregate(updates, master_of(start), pipeline).report.weights)))

    assert theirs == chosen[2]
    assert theirs != chosen[1]


def test_multikrum_is_the_mean_of_what_ours_selects():
    start = orthonormal(begun())
    updates = [replace(trained(start, seed), examples=1) for seed in (1, 2, 3, 4, 5, 95, 96)]
    settings = {"num_nodes_to_select": 5}

    flower = FlowerRule.named("MultiKrum", f=2, settings=settings).combine(updates, master_of(start))
    pipeline = Pipeline(weights=("uniform", "multikrum"), f=2, settings={"krum_margin": 2})
    ours = aggregate(updates, master_of(start), pipeline)

    assert ours.report.weights == pytest.approx([0.2] * 5 + [0.0] * 2)
    for name in SHAPES:
        assert flower.master[name].dense() == pytest.approx(ours.master[name].dense(), rel=1e-6, abs=1e-6)


def going_on(master: Adapter, frozen: Adapter) -> dict[str, LowRank]:
    """Return the next round's start as it is published: float32, the public factor untouched."""
    return {n: LowRank((term.b / SCALE).astype("f4"), frozen[n].a, SCALE) for n, term in master.items()}


def test_fedavgm_over_three_rounds_is_our_fedavgm():
    start = begun()
    rule = FlowerRule(FedAvgM(server_momentum=0.9), rank=3)
    pipeline = Pipeline("ffa", weights=("examples",), outer="fedavgm", settings={"beta": 0.9}, rank=3)
    flower, ours, state = master_of(start), master_of(start), State()
    for seed in (1, 5, 9):
        given = going_on(flower, start)
        updates = [trained(given, seed), trained(given, seed + 1)]
        flower = rule.combine(updates, flower).master
        ours, state, _ = aggregate(updates, ours, pipeline, state)

    for name in SHAPES:
        assert flower[name].dense() == pytest.approx(ours[name].dense(), rel=1e-5, abs=1e-5)


def test_fedadam_over_two_rounds_is_its_equations_in_the_trained_factor():
    """Flower corrects the bias, with round + 1 as the time, and starts v at 0; ours does neither."""
    start = begun()
    rule = FlowerRule(FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3), rank=3)
    master = master_of(start)
    x = values([Update(start, start, 1)], "mlp")[0]
    m, v = np.zeros_like(x), np.zeros_like(x)
    for time, seed in enumerate((1, 5), start=2):
        given = going_on(master, start)
        updates = [replace(trained(given, seed), examples=1), replace(trained(given, seed + 1), examples=3)]
        x = values([Update(given, given, 1)], "mlp")[0]
        change = np.average(values(updates, "mlp"), axis=0, weights=[1, 3]) - x
        m, v = 0.9 * m + 0.1 * change, 0.99 * v + 0.01 * change**2
        x = x + 0.01 * np.sqrt(1 - 0.99**time) / (1 - 0.9**time) * m / (np.sqrt(v) + 1e-3)
        master = rule.combine(updates, master).master

    assert master["mlp"].dense() == pytest.approx(x @ start["mlp"].a.astype("f8"), abs=1e-5)


def test_a_strategy_that_remembers_refuses_another_public_factor():
    """Its moments are coordinates in a basis that is gone."""
    start, other = begun(), begun(seed=3)
    rule = FlowerRule.named("FedAdam")
    rule.combine([trained(start, 1)], master_of(start))

    with pytest.raises(BadUpdate, match="another public factor, and Flower's FedAdam remembers"):
        rule.combine([trained(other, 1)], master_of(other))


def test_a_strategy_that_remembers_refuses_to_begin_elsewhere():
    start = begun()
    rule = FlowerRule(FedAvgM(server_momentum=0.9))
    rule.combine([trained(start, 1), trained(start, 2)], master_of(start))

    with pytest.raises(BadUpdate, match="away from where Flower's FedAvgM left it"):
        rule.combine([trained(start, 3), trained(start, 4)], master_of(start))


def test_a_strategy_without_memory_takes_any_basis_in_any_round():
    start, other = begun(), begun(seed=3)
    rule = FlowerRule.named("FedMedian")
    rule.combine([trained(start, 1)], master_of(start))

    result = rule.combine([trained(other, 1)], master_of(other))

    assert result.state.rounds == 2
    assert result.master["mlp"].dense() == pytest.approx(trained(other, 1).trained["mlp"].dense(), abs=1e-9)


def test_no_order_of_arrival_changes_a_bit():
    """Flower shuffles the nodes that it asks, and sums in that order."""
    start = begun()
    updates = [trained(start, seed) for seed in (1, 2, 3, 4, 5)]

    results = [
        FlowerRule.named("FedAvg").combine(order, master_of(start))
        for order in (updates, updates[::-1], updates[2:] + updates[:2])
    ]

    for name in SHAPES:
        assert len({result.master[name].b.tobytes() for result in results}) == 1
    assert results[0].report.norms == results[1].report.norms[::-1]


def test_a_late_update_adds_what_it_changed_to_where_the_round_began():
    old, new = begun(), begun()
    new = {n: LowRank(term.b + np.float32(1.0), term.a, SCALE) for n, term in new.items()}
    late, fresh = replace(trained(old, 1), staleness=1, examples=1), replace(trained(new, 2), examples=1)

    result = aggregate_with_flower([late, fresh], master_of(new), flower_strategy("FedAvg"))

    for name in SHAPES:
        moved = (late.innovation_of(name).dense() + fresh.innovation_of(name).dense()) / 2
        assert result.master[name].dense() == pytest.approx(new[name].dense() + moved, abs=1e-6)


def test_lora_as_it_begins_needs_no_start():
    """B = 0 and one random A for all: the change is the trained B."""
    start = begun()
    updates = [replace(trained(start, seed), start={}) for seed in (1, 2, 3)]

    result = FlowerRule.named("FedMedian").combine(updates, {})

    for name, term in start.items():
        expected = np.median(values(updates, name), axis=0) @ term.a.astype("f8")
        assert result.master[name].dense() == pytest.approx(expected, abs=1e-9)


def both(start: Adapter) -> Update:
    one, other = trained(start, 1), trained(start, 2, "a")
    return Update({n: LowRank(one.trained[n].b, other.trained[n].a, SCALE) for n in start}, start, 1)


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        (lambda start: [trained(start, 1)][:0], "no updates to combine"),
        (lambda start: [trained(start, 1), both(start)], "A was to stay as it was published"),
        (lambda start: [trained(start, 1), trained(start, 2, "a")], "was to stay as it was published"),
        (lambda start: [trained(start, 1), trained(begun(7), 1)], "public factors of two updates differ"),
        (lambda start: [trained(start, 1), Update({"mlp": start["mlp"]}, {}, 1)], "do not hold the same modules"),
        (lambda start: [replace(trained(start, 1), examples=0)], "0 examples"),
    ],
)
def test_a_round_without_a_public_basis_is_refused_with_the_reason(
    updates: Callable[[Adapter], list[Update]], message: str
):
    """Entries of factors in different bases have no median, no distance and no mean."""
    start = begun()
    with pytest.raises(BadUpdate, match=message) as caught:
        FlowerRule.named("FedMedian").combine(updates(start), master_of(start))
    assert caught.value.__notes__


def test_one_nan_is_refused_where_flower_would_return_it():
    start = begun()
    bad = trained(start, 2)
    bad.trained["mlp"].b[0, 0] = np.nan

    with pytest.raises(BadUpdate, match="FedMedian returned NaN or infinity for mlp"):
        FlowerRule.named("FedMedian").combine([trained(start, 1), bad, trained(start, 3)], master_of(start))


@pytest.mark.parametrize(
    ("name", "f", "settings", "enough"),
    [
        ("FedMedian", 1, {}, 3),
        ("FedMedian", 2, {}, 5),
        ("Krum", 1, {}, 5),
        ("Krum", 2, {}, 7),
        ("MultiKrum", 1, {"num_nodes_to_select": 3}, 5),
        ("Bulyan", 1, {}, 7),
        ("FedTrimmedAvg", 1, {"beta": 0.25}, 4),
        ("FedTrimmedAvg", 2, {"beta": 0.25}, 8),
        ("FedTrimmedAvg", 1, {"beta": 0.45}, 3),
    ],
)
def test_a_defence_with_one_update_too_few_is_refused(name: str, f: int, settings: Mapping[str, float], enough: int):
    """Flower goes on: its Krum with too few sums over one neighbour, and its trimmed mean trims nobody."""
    start = begun()
    updates = [trained(start, seed) for seed in range(enough)]

    with pytest.raises(BadUpdate, match=f"Flower's {name} .*{enough - 1}") as caught:
        FlowerRule.named(name, f=f, settings=settings).combine(updates[:-1], master_of(start))

    assert caught.value.__notes__
    assert FlowerRule.named(name, f=f, settings=settings).combine(updates, master_of(start)).state.rounds == 1


def test_multikrum_must_not_select_more_than_the_honest():
    start = begun()
    rule = FlowerRule.named("MultiKrum", f=2, settings={"num_nodes_to_select": 6})

    with pytest.raises(BadUpdate, match="selects 6 of 7, of which 2 may be hostile") as caught:
        rule.combine([trained(start, seed) for seed in range(7)], master_of(start))
    assert "at most 5" in caught.value.__notes__[0]


def test_a_strategy_that_would_wait_for_nodes_is_refused():
    """Flower's default waits without end for a second node."""
    start = begun()
    with pytest.raises(BadUpdate, match="FedAvg waits for 2 nodes, and 1 updates are there"):
        aggregate_with_flower([trained(start, 1)], master_of(start), FedAvg())


@pytest.mark.parametrize(
    ("make", "message", "fix"),
    [
        (lambda: flower_strategy("flwr:FedMedain"), "no Flower strategy is called 'FedMedain'", "'FedMedian'"),
        (lambda: flower_strategy("flwr:FedXgbBagging"), "combines trees", "use FedAvg"),
        (lambda: flower_strategy("QFedAvg"), "training loss", "use FedAvg"),
        (lambda: flower_strategy("FedAdam", settings={"etta": 1.0}), "'etta'", "'eta'"),
        (lambda: flower_strategy("MultiKrum", f=2), "selects one update unless told", "num_nodes_to_select"),
        (lambda: FlowerRule.named("FedAvg", f=1), "FedAvg defends against nobody", "FedMedian"),
        (lambda: FlowerRule.named("FedAdam", f=1), "FedAdam defends against nobody", "set f to 0"),
    ],
)
def test_mistakes_of_a_tired_person_are_told_with_a_fix(make: Callable[[], Any], message: str, fix: str):
    with pytest.raises(PotluckError, match=message) as caught:
        make()
    assert fix in caught.value.__notes__[0]


def test_settings_and_f_reach_the_strategy():
    strategy = flower_strategy("flwr:MultiKrum", f=2, settings={"num_nodes_to_select": 4})
    assert isinstance(strategy, MultiKrum)
    assert (strategy.num_malicious_nodes, strategy.num_nodes_to_select) == (2, 4)
    assert isinstance(flower_strategy("FedMedian"), FedMedian)


def test_the_rank_is_the_masters_or_what_the_rule_says():
    start = begun()
    other = {n: low_rank(np.random.default_rng(8), shape, 2) for n, shape in SHAPES.items()}
    updates = [trained(start, 1), trained(start, 2)]

    free = FlowerRule.named("FedAvg").combine(updates, other)
    cut = FlowerRule.named("FedAvg", rank=2).combine(updates, other)

    assert free.master["mlp"].rank == 5
    assert free.report.total.discarded < 1e-9
    assert cut.master["mlp"].rank == 2
    assert cut.report.total.discarded > 0.01
