"""A pipeline as a Flower strategy: the numbers of `aggregate`, and replies that do not fit are left out and named."""

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg, Strategy

from adapters import SHAPES, low_rank, trained_from
from flower_nodes import answer, dense, record, sends
from full_disks import files_no_larger_than
from potluck.aggregation import AGGREGATORS, BadSetting, LowRank, Pipeline, PotluckError, Update, aggregate
from potluck.simulations.flower.grid import LocalGrid, Node, as_server
from potluck.simulations.flower.replies import Exchange
from potluck.simulations.flower.strategy import PotluckStrategy

SCALE = 2.0
Round = tuple[ArrayRecord | None, MetricRecord]


def begun(seed: int = 0, rank: int = 3) -> dict[str, LowRank]:
    """Return an adapter in the middle of a run: neither factor is zero."""
    rng = np.random.default_rng(seed)
    return {name: low_rank(rng, shape, rank, SCALE) for name, shape in SHAPES.items()}


def moved(start: Mapping[str, LowRank], seed: int, factors: str = "ba") -> dict[str, LowRank]:
    """Return *start* with the named factors trained a little."""
    rng = np.random.default_rng(seed)
    after = {name: trained_from(rng, term) for name, term in start.items()}
    return {
        name: LowRank(term.b if "b" in factors else start[name].b, term.a if "a" in factors else start[name].a, SCALE)
        for name, term in after.items()
    }


def one_round(
    strategy: Strategy, start: ArrayRecord, nodes: Sequence[Node], order: Sequence[int] | None = None
) -> Round:
    """Play one round with *nodes* 1, 2, …; their replies come in *order*, as places, or as they were asked."""
    grid = LocalGrid({place + 1: node for place, node in enumerate(nodes)})
    with as_server():
        messages = sorted(
            strategy.configure_train(1, start, ConfigRecord(), grid), key=lambda message: message.metadata.dst_node_id
        )
        chosen = messages if order is None else [messages[place] for place in order]
        return strategy.aggregate_train(1, grid.send_and_receive(chosen))


def whole_float64(start: Mapping[str, LowRank]) -> dict[str, LowRank]:
    return {name: LowRank(term.b.astype("f8") * SCALE, term.a.astype("f8")) for name, term in start.items()}


def test_the_mean_in_a_public_basis_is_flowers_fedavg_of_the_trained_factor():
    """The one case in which averaging a factor is exact; both see the same messages."""
    start = begun()
    nodes = [sends(moved(start, seed, "b"), num_examples=10 * seed) for seed in (1, 2, 5)]

    ours, metrics = one_round(PotluckStrategy(scale=SCALE), record(start), nodes)
    theirs, _ = one_round(FedAvg(), record(start), nodes)

    for name in SHAPES:
        assert dense(ours, name, SCALE) == pytest.approx(dense(theirs, name, SCALE), abs=1e-6)
    assert sorted(metrics["potluck-weights"]) == pytest.approx([0.125, 0.25, 0.625])


def test_averaging_both_factors_is_what_fedavg_gets_wrong():
    """The same clients with both factors trained: ours is the mean of the products, Flower's is not."""
    start = begun()
    adapters = [moved(start, seed) for seed in (1, 2)]

    ours, _ = one_round(
        PotluckStrategy(Pipeline(rank=9), scale=SCALE), record(start), [sends(each) for each in adapters]
    )
    theirs, _ = one_round(FedAvg(), record(start), [sends(each) for each in adapters])

    for name in SHAPES:
        mean = sum(each[name].dense() for each in adapters) / 2
        assert dense(ours, name, SCALE) == pytest.approx(mean, abs=1e-5)
        assert np.abs(dense(theirs, name, SCALE) - mean).max() > 1e-3


def factors_of(rule: str) -> str:
    trains = AGGREGATORS[rule]().trains
    return {"both": "ba", "core": "b", "alternately": "b"}.get(trains, trains)


@pytest.mark.parametrize("rule", sorted(AGGREGATORS))
def test_every_rule_gives_what_aggregate_gives_for_the_same_updates(rule: str):
    """Nothing is lost between Flower's messages, the file they wait in, and the driver."""
    start = begun()
    trained = [moved(start, seed, factors_of(rule)) for seed in range(1, 6)]
    if rule == "fedsb":  # only what stays within the subspaces of the master is a core
        trained = [
            {name: LowRank(term.b * np.float32(1 + seed / 8), term.a, SCALE) for name, term in start.items()}
            for seed in range(1, 6)
        ]
    pipeline = Pipeline(rule=rule, rank=3)
    updates = [Update(each, start, examples=7 + seed, steps=2) for seed, each in enumerate(trained)]
    expected = aggregate(updates, whole_float64(start), pipeline)

    nodes = [sends(each, num_examples=7 + seed, local_steps=2) for seed, each in enumerate(trained)]
    strategy = PotluckStrategy(pipeline, scale=SCALE)
    arrays, metrics = one_round(strategy, record(start), nodes)

    assert metrics["potluck-left-out"] == 0
    for name, term in expected.master.items():
        assert dense(arrays, name, SCALE) == pytest.approx(term.dense(), abs=2e-5)
    by_node = dict(zip(metrics["potluck-nodes"], metrics["potluck-weights"], strict=True))
    assert [by_node[node + 1] for node in range(5)] == pytest.approx(expected.report.weights)
    assert metrics["potluck-truncation"] == pytest.approx(expected.report.total.relative_error, rel=1e-6, abs=1e-9)


def test_no_order_of_arrival_changes_a_bit():
    start = begun()
    nodes = [sends(moved(start, seed)) for seed in (1, 2, 3, 4)]
    pipeline = Pipeline(weights=("uniform", "multikrum"), f=0)

    results = [
        one_round(PotluckStrategy(pipeline, scale=SCALE), record(start), nodes, order)[0]
        for order in ([0, 1, 2, 3], [3, 1, 0, 2])
    ]

    assert {n: array.data for n, array in results[0].items()} == {n: array.data for n, array in results[1].items()}


def test_folding_gives_what_the_spool_gives():
    start = begun()
    nodes = [sends(moved(start, seed)) for seed in (1, 2, 3)]

    spooled, _ = one_round(PotluckStrategy(scale=SCALE, spool=True), record(start), nodes)
    folded, _ = one_round(PotluckStrategy(scale=SCALE, spool=False), record(start), nodes)

    for name in SHAPES:
        assert dense(folded, name, SCALE) == pytest.approx(dense(spooled, name, SCALE), abs=1e-5)


@pytest.mark.parametrize("spool", [True, False])
def test_ranks_and_scales_of_clients_may_differ(spool: bool):  # noqa: FBT001
    """A small client trains the leading columns; what it cannot see neither moves nor decays."""
    start = begun(rank=4)
    small = {name: LowRank(term.b[:, :2] + np.float32(0.1), term.a[:2], 6.0) for name, term in start.items()}
    large = moved(start, 1)
    strategy = PotluckStrategy(Pipeline(rank=9), scale=SCALE, spool=spool)

    arrays, _ = one_round(
        strategy, record(start), [sends(small, num_examples=3, lora_scale=6.0), sends(large, num_examples=1)]
    )

    for name, term in start.items():
        begun_small = LowRank(term.b[:, :2], term.a[:2], SCALE).dense()
        change = 0.75 * (small[name].dense() - begun_small) + 0.25 * (large[name].dense() - term.dense())
        assert dense(arrays, name, SCALE) == pytest.approx(term.dense() + change, abs=1e-4)


def test_a_client_may_send_what_changed_instead():
    start = begun()
    trained = [moved(start, seed) for seed in (1, 2)]
    changes = [
        {n: LowRank(term.b - start[n].b, term.a - start[n].a, SCALE) for n, term in each.items()} for each in trained
    ]

    whole, _ = one_round(PotluckStrategy(scale=SCALE), record(start), [sends(each) for each in trained])
    delta, _ = one_round(
        PotluckStrategy(scale=SCALE, exchange=Exchange(replies="delta")),
        record(start),
        [sends(each) for each in changes],
    )

    for name in SHAPES:
        assert dense(delta, name, SCALE) == pytest.approx(dense(whole, name, SCALE), abs=1e-4)


def test_the_public_factor_need_not_be_sent_back():
    """Half the upload, and the same adapter."""
    start = begun()
    trained = [moved(start, seed, "b") for seed in (1, 2)]

    def half(adapter: Mapping[str, LowRank]) -> Node:
        arrays = ArrayRecord({name: array for name, array in record(adapter).items() if name.endswith("lora_B")})
        return lambda message: answer(message, arrays, num_examples=1)

    whole, _ = one_round(PotluckStrategy(Pipeline("ffa"), scale=SCALE), record(start), [sends(x) for x in trained])
    halves, metrics = one_round(
        PotluckStrategy(Pipeline("ffa"), scale=SCALE), record(start), [half(x) for x in trained]
    )

    assert metrics["potluck-updates"] == 2
    assert {n: array.data for n, array in whole.items()} == {n: array.data for n, array in halves.items()}


def changed(adapter: Mapping[str, LowRank], **arrays: np.ndarray) -> ArrayRecord:
    """Return *adapter* as arrays, some of them replaced or added."""
    return ArrayRecord({**record(adapter), **{name.replace("__", "."): Array(value) for name, value in arrays.items()}})


def without(adapter: Mapping[str, LowRank], name: str) -> ArrayRecord:
    return ArrayRecord({key: array for key, array in record(adapter).items() if key != name})


def holding(value: float, shape: tuple[int, int] = (7, 3)) -> np.ndarray:
    values = np.zeros(shape, "f4")
    values[-1, 0] = value
    return values


T = moved(begun(), 9)
BAD: dict[str, tuple[Callable[[Message], Message], str]] = {
    "raised": (
        lambda m: Message(Error(ErrorCode.UNKNOWN, "out of memory"), reply_to=m),
        "failed and says 'out of memory'",
    ),
    "nan": (lambda m: answer(m, changed(T, mlp__lora_B=holding(np.nan)), num_examples=1), "mlp.lora_B holds NaN"),
    "inf": (lambda m: answer(m, changed(T, mlp__lora_B=holding(-np.inf)), num_examples=1), "mlp.lora_B holds NaN"),
    "integers": (lambda m: answer(m, changed(T, mlp__lora_B=np.ones((7, 3), int)), num_examples=1), "no matrix"),
    "extra": (lambda m: answer(m, changed(T, mlp__lora_C=np.ones((7, 3))), num_examples=1), "1 arrays that were not"),
    "missing": (lambda m: answer(m, without(T, "mlp.lora_A"), num_examples=1), "'mlp.lora_A' is missing"),
    "no arrays": (lambda m: answer(m, ArrayRecord(), num_examples=1), "is missing"),
    "shape": (lambda m: answer(m, changed(T, mlp__lora_B=np.ones((8, 3))), num_examples=1), r"\(8, 3\), and \(7, 3\)"),
    "turned": (lambda m: answer(m, changed(T, mlp__lora_A=np.ones((10, 3))), num_examples=1), r"\(10, 3\)"),
    "ranks": (lambda m: answer(m, changed(T, mlp__lora_B=np.ones((7, 2))), num_examples=1), r"\(7, 2\)"),
    "high rank": (lambda m: answer(m, record(begun(rank=4)), num_examples=1), "rank 4, at most 3"),
    "no metrics": (lambda m: Message(RecordDict({"arrays": record(T)}), reply_to=m), "0 MetricRecords"),
    "two records": (
        lambda m: Message(
            RecordDict({"a": record(T), "b": record(T), "m": MetricRecord({"num-examples": 1})}), reply_to=m
        ),
        "2 ArrayRecords",
    ),
    "no examples": (lambda m: answer(m, record(T), loss=1.0), "'num-examples' is missing"),
    "0 examples": (lambda m: answer(m, record(T), num_examples=0), "num-examples is 0"),
    "-199 examples": (lambda m: answer(m, record(T), num_examples=-199), "num-examples is -199"),
    "nan examples": (lambda m: answer(m, record(T), num_examples=np.nan), "'num-examples' is nan"),
    "inf examples": (lambda m: answer(m, record(T), num_examples=np.inf), "'num-examples' is inf"),
    "many examples": (lambda m: answer(m, record(T), num_examples=[1.0, 2.0]), r"'num-examples' is \[1.0"),
    "no scale": (lambda m: answer(m, record(T), num_examples=1, lora_scale=0.0), "lora-scale is 0.0"),
    "huge scale": (lambda m: answer(m, record(T), num_examples=1, lora_scale=2e6), "lora-scale is 2000000.0"),
    "no steps": (lambda m: answer(m, record(T), num_examples=1, local_steps=0), "local-steps is 0"),
}


@pytest.mark.parametrize("spool", [True, False])
@pytest.mark.parametrize("fault", sorted(BAD))
def test_a_reply_that_does_not_fit_is_left_out_and_named_and_the_round_goes_on(fault: str, spool: bool):  # noqa: FBT001
    """In Flower's own strategies most of these end the run, and the others end up in the model."""
    start = begun()
    good = [sends(moved(start, seed)) for seed in (1, 2)]
    reply, reason = BAD[fault]
    strategy = PotluckStrategy(scale=SCALE, spool=spool)

    arrays, metrics = one_round(strategy, record(start), [good[0], reply, good[1]])
    alone, _ = one_round(PotluckStrategy(scale=SCALE, spool=spool), record(start), good)

    assert metrics["potluck-left-out-nodes"] == [2]
    assert (metrics["potluck-left-out"], metrics["potluck-updates"], metrics["potluck-refused"]) == (1, 2, 0)
    assert metrics["potluck-nodes"] == [1, 3]
    with pytest.raises(AssertionError, match=reason):  # pytest's own matching, on the one reason
        raise AssertionError(strategy.left_out[0].reason)
    assert {n: array.data for n, array in arrays.items()} == {n: array.data for n, array in alone.items()}


def test_a_second_reply_of_one_node_is_left_out():
    start = begun()
    strategy = PotluckStrategy(scale=SCALE)

    _, metrics = one_round(strategy, record(start), [sends(moved(start, 1)), sends(moved(start, 2))], order=[0, 1, 0])

    assert (metrics["potluck-nodes"], metrics["potluck-left-out-nodes"]) == ([1, 2], [1])
    assert "second reply" in strategy.left_out[0].reason


@pytest.mark.parametrize(
    ("rule", "factors", "name"), [("ffa", "ba", "lora_A"), ("rolora", "a", "lora_A"), ("fedsa", "b", "lora_B")]
)
def test_a_reply_that_moved_the_public_factor_is_left_out(rule: str, factors: str, name: str):
    """One such reply would otherwise refuse the round for everybody."""
    start = begun()
    right = factors_of(rule)
    strategy = PotluckStrategy(Pipeline(rule), scale=SCALE)

    nodes = [sends(moved(start, 1, right)), sends(moved(start, 2, factors)), sends(moved(start, 3, right))]
    arrays, metrics = one_round(strategy, record(start), nodes)

    assert arrays is not None
    assert metrics["potluck-left-out-nodes"] == [2]
    assert f"{name} has changed" in strategy.left_out[0].reason


def test_a_rule_that_needs_one_start_leaves_other_ranks_and_scales_out():
    start = begun()
    small = {name: LowRank(term.b[:, :2], term.a[:2], SCALE) for name, term in start.items()}
    strategy = PotluckStrategy(Pipeline("fedit"), scale=SCALE)

    nodes = [sends(moved(start, 1)), sends(small), sends(moved(start, 2), lora_scale=1.0)]
    _, metrics = one_round(strategy, record(start), nodes)

    assert metrics["potluck-left-out-nodes"] == [2, 3]
    assert [left.reason.split(" where ")[0] for left in strategy.left_out] == [
        "rank 2 at scale 2.0",
        "rank 3 at scale 1.0",
    ]


def test_a_change_without_a_start_is_left_out():
    start = begun()
    larger = begun(rank=4)
    strategy = PotluckStrategy(scale=SCALE, exchange=Exchange(replies="delta", max_rank=4))

    _, metrics = one_round(
        strategy, record(start), [sends(start), sends(larger), sends(start, lora_scale=1.0), sends(start)]
    )

    assert metrics["potluck-left-out-nodes"] == [2, 3]


def test_a_larger_rank_than_was_sent_is_taken_where_it_is_allowed():
    """Its further columns began at zero."""
    start, larger = begun(), begun(seed=5, rank=5)
    strategy = PotluckStrategy(Pipeline(rank=9), scale=SCALE, exchange=Exchange(max_rank=5))

    arrays, metrics = one_round(strategy, record(start), [sends(larger), sends(larger)])

    assert metrics["potluck-updates"] == 2
    for name, term in larger.items():
        assert dense(arrays, name, SCALE) == pytest.approx(term.dense(), abs=1e-4)


def test_what_a_client_says_of_its_examples_is_capped_and_told():
    """Flower takes 1e9 at its word, and the round is that client's."""
    start = begun()
    nodes = [sends(moved(start, seed), num_examples=n) for seed, n in ((1, 30), (2, 10**9), (3, 60))]
    strategy = PotluckStrategy(scale=SCALE, exchange=Exchange(max_examples=60))

    _, metrics = one_round(strategy, record(start), nodes)

    assert metrics["potluck-weights"] == pytest.approx([0.2, 0.4, 0.4])
    assert (metrics["potluck-capped"], metrics["potluck-capped-nodes"]) == (1, [2])


def test_a_round_of_bad_replies_leaves_the_adapter_as_it_was_and_the_next_one_works():
    start = begun()
    strategy = PotluckStrategy(scale=SCALE)

    nothing, metrics = one_round(strategy, record(start), [BAD["nan"][0], BAD["raised"][0]])
    arrays, later = one_round(strategy, record(start), [sends(moved(start, 1)), sends(moved(start, 2))])

    assert nothing is None
    assert (metrics["potluck-refused"], metrics["potluck-updates"], metrics["potluck-left-out"]) == (1, 0, 2)
    assert "potluck-weights" not in metrics
    assert arrays is not None
    assert later["potluck-refused"] == 0


def test_a_defence_without_enough_updates_refuses_the_round():
    """Krum needs 2f + 3 = 5; four are not averaged instead."""
    start = begun()
    pipeline = Pipeline(weights=("uniform", "krum"), f=1)
    nodes = [sends(moved(start, seed)) for seed in range(1, 6)]

    four, refused = one_round(PotluckStrategy(pipeline, scale=SCALE), record(start), nodes[:4])
    five, taken = one_round(PotluckStrategy(pipeline, scale=SCALE), record(start), nodes)

    assert (four, refused["potluck-refused"], refused["potluck-updates"]) == (None, 1, 4)
    assert five is not None
    assert sorted(taken["potluck-weights"]) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("count", [7, 70])
def test_the_largest_values_that_are_taken_cannot_refuse_a_round(count: int):
    """Seventy are sketched in float32, where greater ones would become infinite and stop everybody's round."""
    start = begun()
    huge = {name: LowRank(np.full_like(term.b, 1e9), np.full_like(term.a, -1e9), SCALE) for name, term in start.items()}
    nodes = [sends(huge, lora_scale=1e6)] + [sends(moved(start, seed)) for seed in range(1, count)]
    pipeline = Pipeline(weights=("uniform", "multikrum"), f=1)

    arrays, metrics = one_round(PotluckStrategy(pipeline, scale=SCALE), record(start), nodes)

    assert metrics["potluck-refused"] == 0
    assert metrics["potluck-weights"][0] == 0
    assert max(np.abs(dense(arrays, name, SCALE) - start[name].dense()).max() for name in SHAPES) < 5


def test_the_clients_own_metrics_are_averaged_by_examples_and_ours_stand_beside():
    start = begun()
    nodes = [
        sends(moved(start, 1), num_examples=1, loss=4.0, lora_scale=SCALE),
        sends(moved(start, 2), num_examples=3, loss=2.0, only_here=7),
        sends(moved(start, 3), num_examples=6, loss=np.nan, many=[1.0]),
    ]

    _, metrics = one_round(PotluckStrategy(scale=SCALE), record(start), nodes)

    assert {key: value for key, value in metrics.items() if not key.startswith("potluck")} == {
        "loss": 2.5,
        "only-here": 7.0,
    }
    assert metrics["potluck-norms"] == pytest.approx(
        [np.sqrt(sum(np.sum((moved(start, s)[n].dense() - start[n].dense()) ** 2) for n in SHAPES)) for s in (1, 2, 3)],
        rel=1e-5,
    )


def test_clients_are_told_the_rank_the_scale_and_what_to_train():
    seen: list[Mapping[str, Any]] = []

    def node(message: Message) -> Message:
        seen.append(dict(message.content["config"]))
        return answer(message, message.content["arrays"], num_examples=1)

    start = begun()
    strategy = PotluckStrategy(Pipeline("rolora"), scale=SCALE)
    arrays, _ = one_round(strategy, record(start), [node, node])
    one_round(strategy, arrays, [node, node])

    assert seen[0] == {"server-round": 1, "lora-rank": 3, "lora-scale": 2.0, "lora-trains": "b"}
    assert seen[2]["lora-trains"] == "a"


def test_sampling_is_flowers_own():
    start = begun()
    sampling = FedAvg(fraction_train=0.5, min_train_nodes=1, min_available_nodes=1, weighted_by_key="rows")
    nodes = [lambda message, seed=seed: answer(message, record(moved(start, seed)), rows=seed) for seed in (1, 2, 3, 4)]
    grid = LocalGrid({place + 1: node for place, node in enumerate(nodes)})
    strategy = PotluckStrategy(scale=SCALE, sampling=sampling)

    with as_server():
        messages = list(strategy.configure_train(1, record(start), ConfigRecord(), grid))
        _, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))

    assert len(messages) == 2
    asked = [message.metadata.dst_node_id for message in messages]
    assert metrics["potluck-nodes"] == asked
    assert metrics["potluck-weights"] == pytest.approx([node / sum(asked) for node in asked])


def test_evaluation_is_averaged_and_what_does_not_fit_is_named():
    def scored(loss: float, examples: float) -> Node:
        metrics = MetricRecord({"num-examples": examples, "loss": loss})
        return lambda message: Message(RecordDict({"m": metrics}), reply_to=message)

    strategy = PotluckStrategy(scale=SCALE)
    grid = LocalGrid({1: scored(1.0, 1), 2: scored(9.0, -1), 3: BAD["raised"][0], 4: scored(3.0, 3)})
    with as_server():
        messages = strategy.configure_evaluate(1, record(begun()), ConfigRecord({"a": 1}), grid)
        told = dict(messages[0].content["config"])
        metrics = strategy.aggregate_evaluate(1, grid.send_and_receive(messages))
        nothing = strategy.aggregate_evaluate(1, [])

    assert told == {"a": 1, "server-round": 1, "lora-rank": 3, "lora-scale": 2.0}
    assert metrics["loss"] == 2.5
    assert (metrics["potluck-left-out"], sorted(metrics["potluck-left-out-nodes"])) == (2, [2, 3])
    assert nothing is None


@pytest.mark.parametrize("spool", [True, False])
def test_the_memory_of_a_round_does_not_grow_with_its_updates(spool: bool):  # noqa: FBT001
    """Replies of 0.38 MB, each made when it is asked for: 36 held ones would be 14 MB more, 24 others 9 MB.

    A sum gathers columns before it recompresses itself, so a round of 4 is not yet at its peak.
    """
    rng = np.random.default_rng(0)
    start = {f"m{i}": low_rank(rng, (250, 250), 64, SCALE) for i in range(3)}

    def grown(message: Message) -> Message:
        step = np.float32(1 + message.metadata.dst_node_id / 1000)
        return sends({name: LowRank(term.b * step, term.a * step, SCALE) for name, term in start.items()})(message)

    def peak(count: int) -> int:
        grid = LocalGrid(dict.fromkeys(range(1, count + 1), grown))
        strategy = PotluckStrategy(scale=SCALE, spool=spool)
        with as_server():
            messages = list(strategy.configure_train(1, record(start), ConfigRecord(), grid))
            tracemalloc.start()
            _, metrics = strategy.aggregate_train(1, grid.send_and_receive(messages))
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert metrics["potluck-updates"] == count
        return highest

    few, many, most = peak(4), peak(40), peak(64)

    assert many < few + 5e6
    assert most < 1.02 * many


@pytest.mark.parametrize(
    ("make", "message", "fix"),
    [
        (PotluckStrategy, "scale is None", "scale=lora_alpha / r"),
        (lambda: PotluckStrategy(scale=0.0), "scale is 0.0", "lora_alpha / r"),
        (lambda: PotluckStrategy(scale=np.inf), "scale is inf", "lora_alpha / r"),
        (lambda: PotluckStrategy(scale=1.0, spool=Path("no/such")), "no folder no/such", "make it"),
        (lambda: PotluckStrategy(Pipeline("meen"), scale=1.0), "no aggregation rule is called 'meen'", "'mean'"),
        (
            lambda: PotluckStrategy(Pipeline(weights=("krum",)), scale=1.0, spool=False),
            "reads every update more than once",
            "leave spool on",
        ),
        (lambda: PotluckStrategy(Pipeline("median"), scale=1.0, spool=False), "more than once", "leave spool on"),
        (lambda: PotluckStrategy(Pipeline("raflora"), scale=1.0, spool=False), "more than once", "leave spool on"),
        (lambda: Exchange(init="fresh"), "'fresh' freezes a part", "continue"),
        (lambda: Exchange(init="continu"), "no init is called", "'continue'"),
        (lambda: Exchange(replies="deltas"), "replies is 'deltas'", "'delta'"),
        (lambda: Exchange(max_examples=0), "max_examples is 0", "at least 1"),
        (lambda: Exchange(max_rank=0), "max_rank 0", "at least 1"),
        (lambda: PotluckStrategy(scale=1.0).aggregate_train(1, []), "nothing to aggregate into", "configure_train"),
    ],
)
def test_mistakes_of_a_tired_person_are_told_with_a_fix(make: Callable[[], Any], message: str, fix: str):
    with pytest.raises(PotluckError, match=message) as caught:
        make()
    assert fix in caught.value.__notes__[0]


def test_a_misspelt_array_is_told_with_the_nearest_name():
    start = begun()
    strategy = PotluckStrategy(scale=SCALE)
    wrong = ArrayRecord({name.replace("attention", "attentions"): array for name, array in record(start).items()})

    one_round(strategy, record(start), [sends(start), lambda message: answer(message, wrong, num_examples=1)])

    assert "did you mean 'attention.lora_" in strategy.left_out[0].reason


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped():
    """The arrays and the outer step's state are all there is to keep."""
    start = begun()
    pipeline = Pipeline(outer="nesterov", settings={"eta": 0.5, "mu": 0.5})

    def after(strategy: PotluckStrategy, arrays: ArrayRecord, rounds: Sequence[int]) -> ArrayRecord:
        for seed in rounds:
            terms = {
                name: LowRank(arrays[f"{name}.lora_B"].numpy(), arrays[f"{name}.lora_A"].numpy(), SCALE)
                for name in SHAPES
            }
            arrays, _ = one_round(strategy, arrays, [sends(moved(terms, seed)), sends(moved(terms, seed + 10))])
        return arrays

    first = PotluckStrategy(pipeline, scale=SCALE)
    half = after(first, record(start), [1, 2])
    resumed = after(PotluckStrategy(pipeline, scale=SCALE, state=first.state), half, [3])
    forgetful = after(PotluckStrategy(pipeline, scale=SCALE), half, [3])
    straight = after(first, half, [3])

    for name in SHAPES:
        assert dense(resumed, name, SCALE) == pytest.approx(dense(straight, name, SCALE), abs=1e-4)
        assert np.abs(dense(forgetful, name, SCALE) - dense(straight, name, SCALE)).max() > 1e-2


def test_the_pipeline_says_how_many_columns_the_next_adapter_has():
    """Columns that nothing fills yet are zero in B, and random in A so that they can be trained."""
    start = begun(rank=2)
    strategy = PotluckStrategy(Pipeline(rank=5), scale=SCALE)

    arrays, _ = one_round(strategy, record(start), [sends(start), sends(start)])

    b, a = arrays["mlp.lora_B"].numpy(), arrays["mlp.lora_A"].numpy()
    assert (b.shape, a.shape, b.dtype, a.dtype) == ((7, 5), (5, 10), np.float32, np.float32)
    assert not b[:, 2:].any()
    assert a[2:].all()
    assert dense(arrays, "mlp", SCALE) == pytest.approx(start["mlp"].dense(), abs=1e-5)


def test_peft_names_go_in_and_come_out():
    start = begun()
    style = ("lora_A.weight", "lora_B.weight")
    nodes = [lambda m, s=s: answer(m, record(moved(start, s), style), num_examples=1) for s in (1, 2)]

    arrays, metrics = one_round(PotluckStrategy(scale=SCALE), record(start, style), nodes)

    assert list(arrays) == list(record(start, style))
    assert metrics["potluck-updates"] == 2


def test_an_overflow_in_the_outer_step_leaves_the_adapter_as_it_was():
    start = begun()
    pipeline = Pipeline(outer="fedavg", settings={"eta": 1e80})
    strategy = PotluckStrategy(pipeline, scale=SCALE)

    arrays, metrics = one_round(strategy, record(start), [sends(moved(start, 1)), sends(moved(start, 2))])

    assert (arrays, metrics["potluck-refused"], metrics["potluck-updates"]) == (None, 1, 2)
    assert strategy.state.rounds == 0


def test_a_pipeline_without_a_rank_keeps_the_rank_that_came_in():
    start = begun()
    strategy = PotluckStrategy(Pipeline(), scale=SCALE)
    arrays, _ = one_round(strategy, record(start), [sends(moved(start, 1)), sends(moved(start, 2))])
    assert arrays["mlp.lora_A"].numpy().shape == (3, 10)
    assert strategy.pipeline == replace(Pipeline(), rank=None)


def test_the_spool_is_in_the_folder_it_is_given_and_nothing_stays_there(tmp_path: Path):
    start = begun()

    nodes = [sends(moved(start, 1)), sends(moved(start, 2))]
    _, metrics = one_round(PotluckStrategy(scale=SCALE, spool=tmp_path), record(start), nodes)

    assert metrics["potluck-updates"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_a_fix():
    """Not left to a traceback after hours of training: a reply has 456 bytes, and 17 of them fit."""
    start = begun()
    nodes = [sends(moved(start, seed)) for seed in range(20)]

    with files_no_larger_than(8_192), pytest.raises(BadSetting, match="reply 18 of the round") as caught:
        one_round(PotluckStrategy(scale=SCALE), record(start), nodes)

    assert "spool=Path" in caught.value.__notes__[0]


def test_bad_setting_is_a_mistake_and_not_a_refused_round():
    """A contradiction in the pipeline must not look like a bad day of the clients."""
    with pytest.raises(BadSetting):
        Pipeline(rule="mean", outer="fedadam")
