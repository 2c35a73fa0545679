"""Whole runs through Flower's own Strategy.start, with real client apps that train: the loss must fall."""

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.serverapp.strategy import FedAvg, Result

from flower_nodes import Regression, answer, dense, record
from potluck.aggregation import Pipeline
from potluck.simulations.flower.grid import nodes_of, play
from potluck.simulations.flower.replies import Exchange
from potluck.simulations.flower.strategy import PotluckStrategy

SCALE = 2.0
CLIENTS = 7


def losses(result: Result) -> list[float]:
    return [metrics["eval-loss"] for metrics in result.evaluate_metrics_clientapp.values()]


def hostile(message: Message, context: Context) -> Message | None:
    """One of seven sends NaN, one an array too many, one raises, and one claims a billion examples for nonsense."""
    part = context.node_config["partition-id"]
    arrays = message.content["arrays"]
    if part == 0:
        broken = {name: Array(np.full_like(array.numpy(), np.nan)) for name, array in arrays.items()}
        return answer(message, ArrayRecord(broken), num_examples=64)
    if part == 1:
        extra = ArrayRecord({**arrays, "head": Array(np.zeros((2, 2), "f4"))})
        return answer(message, extra, num_examples=64)
    if part == 2:
        raise RuntimeError("killed")
    return None


@pytest.mark.parametrize(
    ("pipeline", "exchange", "factor"),
    [
        (Pipeline(), Exchange(), 1e-3),
        (Pipeline(), Exchange(init="orthonormal"), 1e-3),
        (Pipeline(weights=("uniform", "norm_bound", "nnm", "geomedian"), f=2), Exchange(), 1e-3),
        (Pipeline(outer="nesterov", settings={"eta": 0.5, "mu": 0.5}), Exchange(), 0.1),
        (Pipeline("rolora"), Exchange(), 0.2),
        (Pipeline("ffa"), Exchange(), 0.9),
        (Pipeline("fedsvd"), Exchange(), 0.9),
        (Pipeline("median"), Exchange(), 0.9),
        (Pipeline("ffa", outer="fedadam", settings={"eta": 0.3}), Exchange(), 0.9),
        (Pipeline("fedit"), Exchange(), 1e-2),
    ],
    ids=lambda value: "-".join((value.rule, *value.weights[1:], value.outer)) if isinstance(value, Pipeline) else None,
)
def test_a_run_of_flower_trains_under_any_pipeline(pipeline: Pipeline, exchange: Exchange, factor: float):
    """Rules that train one factor alone end at what a random A allows; the others fit the targets."""
    problem = Regression()
    strategy = PotluckStrategy(pipeline, scale=SCALE, exchange=exchange)

    result = play(strategy, nodes_of(problem.app(), CLIENTS), record(problem.start), rounds=8)

    assert problem.loss(result.arrays, SCALE) == pytest.approx(losses(result)[-1], rel=1e-6)
    assert losses(result)[-1] < factor * problem.loss(record(problem.start), SCALE)
    assert losses(result)[-1] < losses(result)[0]
    assert all(metrics["potluck-refused"] == 0 for metrics in result.train_metrics_clientapp.values())


def test_a_run_goes_on_past_clients_that_end_flowers_own():
    """NaN, an extra array, an exception: three of seven in every round, and the other four train the model."""
    problem = Regression()
    strategy = PotluckStrategy(scale=SCALE)

    result = play(strategy, nodes_of(problem.app(hostile), CLIENTS), record(problem.start), rounds=6)

    assert losses(result)[-1] < 1e-2 * problem.loss(record(problem.start), SCALE)
    for metrics in result.train_metrics_clientapp.values():
        assert sorted(metrics["potluck-left-out-nodes"]) == [1, 2, 3]
        assert sorted(metrics["potluck-nodes"]) == [4, 5, 6, 7]


def test_flowers_own_fedavg_ends_at_such_a_client():
    """The comparison that the test before stands beside."""
    problem = Regression()

    with pytest.raises(Exception, match="same keys"):
        play(FedAvg(), nodes_of(told(problem, hostile), CLIENTS), record(problem.start), rounds=1)


def told(problem: Regression, spoil: Callable[[Message, Context], Message | None]) -> object:
    """Return the app for a server that does not tell the scale, as FedAvg."""

    def telling(message: Message, context: Context) -> Message | None:
        message.content["config"]["lora-scale"], message.content["config"]["lora-trains"] = SCALE, "both"
        return spoil(message, context)

    return problem.app(telling)


def test_ffa_leaves_the_first_a_untouched_over_a_whole_run():
    """Its basis is what element-wise outer steps and clients that keep a half on the disk rely on."""
    problem = Regression()
    strategy = PotluckStrategy(Pipeline("ffa", outer="fedadam", settings={"eta": 0.1}), scale=SCALE)

    result = play(strategy, nodes_of(problem.app(), CLIENTS), record(problem.start), rounds=5)

    for module, term in problem.start.items():
        assert np.array_equal(result.arrays[f"{module}.lora_A"].numpy(), term.a)
        assert np.abs(strategy.state.moments[module].first).max() > 0
    assert strategy.state.rounds == 5


def test_rolora_alternates_over_a_whole_run():
    problem = Regression()
    strategy = PotluckStrategy(Pipeline("rolora"), scale=SCALE)
    nodes = nodes_of(problem.app(), CLIENTS)

    one = play(strategy, nodes, record(problem.start), rounds=1).arrays
    two = play(strategy, nodes, one, rounds=1).arrays

    for module, term in problem.start.items():
        assert np.array_equal(one[f"{module}.lora_A"].numpy(), term.a)
        assert not np.array_equal(one[f"{module}.lora_B"].numpy(), term.b)
        assert np.array_equal(two[f"{module}.lora_B"].numpy(), one[f"{module}.lora_B"].numpy())
        assert not np.array_equal(two[f"{module}.lora_A"].numpy(), term.a)


def test_two_runs_give_the_same_bits():
    """Flower asks its nodes in a random order."""
    problem = Regression()
    first, second = (
        play(PotluckStrategy(scale=SCALE), nodes_of(problem.app(), CLIENTS), record(problem.start), rounds=3).arrays
        for _ in range(2)
    )
    assert {name: array.data for name, array in first.items()} == {name: array.data for name, array in second.items()}


def test_centralised_evaluation_sees_the_whole_adapter():
    problem = Regression()
    result = play(PotluckStrategy(scale=SCALE), nodes_of(problem.app(), CLIENTS), record(problem.start), rounds=2)

    gaps = [
        np.mean(np.sum((dense(result.arrays, m, SCALE) - target) ** 2, axis=1)) for m, target in problem.targets.items()
    ]
    assert np.mean(gaps) == pytest.approx(losses(result)[-1], rel=1e-6)
