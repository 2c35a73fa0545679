"""A round: known answers, exactness, order, memory, refusals."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import SHAPES, low_rank, parsed_term, parsed_update, random_update, regauged, trained_from
from potluck.aggregation import (
    AGGREGATORS,
    OUTER,
    WEIGHTS,
    Limits,
    LowRank,
    Pipeline,
    State,
    Update,
    aggregate,
    compress,
    decode,
    encode,
    from_tensors,
    scaling,
    to_tensors,
)
from potluck.aggregation.rules.registry import GAUGE_DEPENDENT

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation.json").read_text("utf-8"))
SEEDS = st.integers(0, 2**32 - 1)
FULL = 10_000


def mean_of_innovations(updates, weights=None):
    """Return Σ cᵢ·(trained − start) per module, from dense float64 arrays."""
    weights = np.array([u.examples for u in updates] if weights is None else weights, float)
    shares = weights / weights.sum()
    result = {}
    for name, term in updates[0].trained.items():
        zero = LowRank(np.zeros((term.shape[0], 0)), np.zeros((0, term.shape[1])))
        moves = [u.trained[name].dense() - u.start.get(name, zero).dense() for u in updates]
        result[name] = sum(c * move for c, move in zip(shares, moves, strict=True))
    return result


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("case", VECTORS["rounds"], ids=lambda case: case["name"])
def test_known_answers(case):
    """T1, T2, T3, T6, and starts at their own scale, round after round."""
    options = dict(case["pipeline"], weights=tuple(case["pipeline"].get("weights", ["examples"])))
    master, state = ({"w": parsed_term(case["before"])} if "before" in case else {}), None

    for expected in case["rounds"]:
        updates = [parsed_update(table) for table in expected["updates"]]
        master, state, report = aggregate(updates, master, Pipeline(**options), state)

        np.testing.assert_allclose(master["w"].dense(), expected["master"], atol=5e-9)
        assert report.total.discarded == pytest.approx(expected["discarded"], abs=1e-11)


def test_the_singular_values_of_the_first_vector():
    """T1 again, to twelve digits."""
    updates = [parsed_update(table) for table in VECTORS["rounds"][0]["rounds"][0]["updates"]]

    master = aggregate(updates, {}).master["w"]

    sigma = np.linalg.norm(master.b, axis=0) * np.linalg.norm(master.a, axis=1)
    np.testing.assert_allclose(sigma, VECTORS["t1_singular_values"], rtol=1e-12)


@pytest.mark.parametrize("case", VECTORS["scaling"], ids=str)
def test_scaling_is_alpha_over_rank_or_over_its_root(case):
    """T3."""
    assert scaling(case["alpha"], case["rank"], rslora=case["rslora"]) == case["scale"]


def test_staleness_is_the_inverse_root_of_one_plus_versions():
    """T6."""
    term = {"w": LowRank(np.ones((1, 1)), np.ones((1, 1)))}

    actual = [WEIGHTS["staleness"]()(Update(term, {}, 1, staleness=late)) for late in range(4)]

    np.testing.assert_allclose(actual, VECTORS["staleness"], atol=5e-11)


@pytest.mark.parametrize(
    ("name", "lr", "momentum", "nesterov"), [("nesterov", 0.7, 0.9, True), ("fedavgm", 1, 0.9, False)]
)
def test_the_outer_step_is_torchs_sgd(name, lr, momentum, nesterov):
    """An outside reference for ten rounds on a 6 × 5 module; the gradient is minus the innovation."""
    rng = np.random.default_rng(0)
    weight = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=lr, momentum=momentum, nesterov=nesterov)
    master, state = {}, None

    for _ in range(10):
        move = low_rank(rng, (6, 5), 2)
        weight.grad = -torch.from_numpy(move.dense())
        optimiser.step()
        master, state, _ = aggregate([Update({"w": move}, {}, 1)], master, Pipeline(outer=name, rank=FULL), state)

    assert relative(master["w"].dense(), weight.detach().numpy()) <= 1e-13


@given(
    seed=SEEDS,
    clients=st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 6), st.sampled_from([1, 8, 16, 32]), st.booleans()),
        min_size=1,
        max_size=6,
    ),
)
def test_any_mix_of_ranks_and_scales_is_exact(seed: int, clients):
    """Σ cᵢ·(sᵢBᵢAᵢ − Tᵢ) to 1e-12 of the dense sum, for α/r and α/√r, from starts of any rank and scale."""
    rng = np.random.default_rng(seed)
    updates = []
    for rank, start_rank, alpha, rslora in clients:
        scale = scaling(alpha, rank, rslora=rslora)
        trained = {name: low_rank(rng, shape, rank, scale) for name, shape in SHAPES.items()}
        start = {name: low_rank(rng, shape, start_rank, scaling(alpha, 2)) for name, shape in SHAPES.items()}
        updates.append(Update(trained, start, int(rng.integers(1, 50))))
    before = {name: low_rank(rng, shape, 4) for name, shape in SHAPES.items()}

    after = aggregate(updates, before, Pipeline(rank=FULL)).master

    for name, move in mean_of_innovations(updates).items():
        size = np.linalg.norm(move) + np.linalg.norm(before[name].dense())
        assert np.linalg.norm(after[name].dense() - before[name].dense() - move) <= 1e-12 * size


@settings(max_examples=30)
@given(
    seed=SEEDS,
    order=st.permutations(range(6)),
    rule=st.sampled_from(
        sorted(n for n, kind in AGGREGATORS.items() if kind.trains == "both" and n not in GAUGE_DEPENDENT)
    ),
    outer=st.sampled_from(sorted(name for name, kind in OUTER.items() if not kind.elementwise)),
)
def test_the_order_of_arrival_changes_no_bit(seed: int, order, rule: str, outer: str):
    """A restarted coordinator must reach the same digest; one update is there twice."""
    rng = np.random.default_rng(seed)
    updates = [random_update(rng) for _ in range(5)]
    updates.append(updates[2])
    pipeline = Pipeline(rule=rule, weights=("examples", "staleness"), outer=outer, rank=5)

    first = aggregate(updates, {}, pipeline)
    second = aggregate(tuple(updates[place] for place in order), {}, pipeline)

    for a, b in ((first.master, second.master), (first.state.momentum, second.state.momentum)):
        assert encode(to_tensors(a), "fp64") == encode(to_tensors(b), "fp64")
    assert second.report.weights == tuple(first.report.weights[place] for place in order)
    assert second.report.norms == tuple(first.report.norms[place] for place in order)
    assert second.report.total == first.report.total


@settings(max_examples=30)
@given(SEEDS)
def test_no_gauge_changes_the_master(seed: int):
    """T2 as a property: (BM, M⁻¹A) is the same client, for every invertible M."""
    rng = np.random.default_rng(seed)
    updates = [random_update(rng) for _ in range(4)]
    turned = [
        Update({n: regauged(rng, t) for n, t in u.trained.items()}, u.start, u.examples, staleness=u.staleness)
        for u in updates
    ]

    first, second = (aggregate(each, {}, Pipeline(rank=FULL)).master for each in (updates, turned))

    for name, term in first.items():
        np.testing.assert_allclose(second[name].dense(), term.dense(), rtol=0, atol=1e-10)


def test_a_sum_over_several_batches_is_exact():
    """1,040 columns from two starts: four batches and more, and none is written over while it waits."""
    rng = np.random.default_rng(12)
    starts = [{"w": low_rank(rng, (300, 200), 16, 2.0)} for _ in range(2)]
    updates = []
    for client in range(65):
        start = starts[client % 2]
        trained = {"w": trained_from(rng, start["w"])}
        updates.append(Update(trained, start, examples=1 + client, staleness=client % 2))

    master = aggregate(updates, {}, Pipeline(rank=FULL, exact_up_to=65)).master["w"].dense()

    assert relative(master, mean_of_innovations(updates)["w"]) <= 1e-12


def test_fedit_depends_on_the_gauge():
    """Known and documented: why factors are never averaged, except to compare."""
    rng = np.random.default_rng(9)
    start = random_update(rng).start
    updates = [Update({n: trained_from(rng, t) for n, t in start.items()}, start, 1) for _ in range(4)]
    turned = [Update({n: regauged(rng, t) for n, t in u.trained.items()}, start, 1) for u in updates]

    first, second = (aggregate(each, {}, Pipeline(rule="fedit")).master for each in (updates, turned))

    assert relative(second["mlp"].dense(), first["mlp"].dense()) > 0.1


def test_one_pass_over_an_iterator_is_the_same_up_to_rounding():
    """From files, without a list; the updates are read once, in their own order."""
    rng = np.random.default_rng(10)
    updates = [random_update(rng, rank=4) for _ in range(70)]  # 560 columns: over two chunks
    pipeline = Pipeline(weights=("examples", "staleness"), outer="nesterov", rank=6, exact_up_to=70)

    listed, streamed = aggregate(updates, {}, pipeline), aggregate(iter(updates), {}, pipeline)

    for name, term in listed.master.items():
        assert relative(streamed.master[name].dense(), term.dense()) <= 1e-12
    np.testing.assert_allclose(streamed.report.weights, listed.report.weights, rtol=1e-14)
    np.testing.assert_allclose(streamed.report.norms, listed.report.norms, rtol=1e-14)


def test_memory_does_not_grow_with_the_number_of_updates():
    """One update at a time: four times as many take no more room."""

    def peak(number: int) -> int:
        rng = np.random.default_rng(11)
        tracemalloc.start()
        aggregate((random_update(rng, rank=4, shapes={"q": (90, 60)}) for _ in range(number)), {})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(320) <= 1.05 * peak(80)


def test_a_single_round_from_a_common_start_is_fedex():
    """W₀ + G is FedEx's effective weight: W₀ + s·B̄Ā + s·(Σ wᵢBᵢAᵢ − B̄Ā), Singhal et al. 2024."""
    rng = np.random.default_rng(12)
    start = low_rank(rng, (12, 9), 3, scale=2.0)
    trained = [trained_from(rng, start) for _ in range(4)]
    w = np.array([0.1, 0.2, 0.3, 0.4])

    master = aggregate(
        [Update({"q": t}, {"q": start}, n) for t, n in zip(trained, (1, 2, 3, 4), strict=True)], {"q": start}
    )

    b, a = np.array([t.b for t in trained], float), np.array([t.a for t in trained], float)
    mean = np.einsum("n,ndr->dr", w, b) @ np.einsum("n,nrk->rk", w, a)
    residual = np.einsum("n,ndr,nrk->dk", w, b, a) - mean
    assert relative(master.master["q"].dense(), 2.0 * mean + 2.0 * residual) <= 1e-12


def test_the_error_of_fedit_is_the_pairwise_term():
    """Σ wᵢBᵢAᵢ − B̄Ā = ½ΣΣ wᵢwⱼ(Bᵢ − Bⱼ)(Aᵢ − Aⱼ): zero exactly when a factor is common to all."""
    rng = np.random.default_rng(13)
    terms = [low_rank(rng, (12, 9), 3) for _ in range(3)]
    updates = [Update({"q": t}, {}, 1) for t in terms]

    gap = (
        aggregate(updates, {}).master["q"].dense() - aggregate(updates, {}, Pipeline(rule="fedit")).master["q"].dense()
    )

    pairs = [(x.b - y.b).astype(float) @ (x.a - y.a) / 9 for x in terms for y in terms]
    np.testing.assert_allclose(gap, 0.5 * sum(pairs), atol=1e-6)
    common = [Update({"q": LowRank(t.b, terms[0].a)}, {}, 1) for t in terms]
    mean, fedit = (aggregate(common, {}, Pipeline(rule=rule)).master["q"].dense() for rule in ("mean", "fedit"))
    np.testing.assert_allclose(fedit, mean, atol=1e-12)


def test_the_report_says_what_the_cut_cost():
    """Per module and together, against the dense tail."""
    rng = np.random.default_rng(14)
    updates = [random_update(rng, rank=3) for _ in range(3)]

    report = aggregate(updates, {}, Pipeline(rank=2)).report

    squares = 0.0
    for name, move in mean_of_innovations(updates).items():
        tail = np.linalg.norm(np.linalg.svd(move, compute_uv=False)[2:])
        squares += tail**2
        assert report.modules[name].discarded == pytest.approx(tail, rel=1e-12)
        assert report.modules[name].relative_error == pytest.approx(tail / np.linalg.norm(move), rel=1e-12)
    assert report.total.discarded == pytest.approx(squares**0.5, rel=1e-12)
    assert sum(report.weights) == pytest.approx(1, rel=1e-15)
    expected = [sum(np.sum(d.dense() ** 2) for d in u.innovation().values()) ** 0.5 for u in updates]
    np.testing.assert_allclose(report.norms, expected, rtol=1e-12)


def test_the_master_has_four_columns_for_each_of_the_largest_client():
    """Never fewer than it has: a round of small clients must not cut what large ones built."""
    rng = np.random.default_rng(15)
    shape = (50, 40)
    large, small = (random_update(rng, rank=r, shapes={"q": shape}) for r in (6, 1))
    many = [random_update(rng, rank=6, shapes={"q": shape}) for _ in range(9)]

    first = aggregate([*many, small], {}).master
    second = aggregate([small], first).master

    assert (first["q"].rank, second["q"].rank) == (24, 24)
    assert aggregate([large], {}, Pipeline(rank=5)).master["q"].rank == 5
    assert aggregate([random_update(rng, rank=9, shapes={"q": (50, 4)})], {}).master["q"].rank == 4


def test_momentum_is_kept_in_tensors():
    """A restart between rounds changes no bit."""
    rng = np.random.default_rng(16)
    pipeline = Pipeline(outer="fedavgm", rank=4)
    master, state, _ = aggregate([random_update(rng)], {}, pipeline)
    late = [random_update(rng)]

    stored = encode(to_tensors(state.momentum), "fp64")
    restored = State(from_tensors(decode(stored, limits=Limits())))

    expected, actual = (aggregate(late, master, pipeline, each).master for each in (state, restored))
    assert encode(to_tensors(actual), "fp64") == encode(to_tensors(expected), "fp64")
    assert relative(actual["mlp"].dense(), aggregate(late, master, pipeline).master["mlp"].dense()) > 0.01


def test_a_settings_name_reaches_the_stage_that_has_it():
    """Half a step is half the innovation."""
    update = random_update(np.random.default_rng(17))

    half = aggregate([update], {}, Pipeline(settings={"eta": 0.5})).master["mlp"].dense()

    assert relative(2 * half, compress([update.innovation()["mlp"]]).low_rank.dense()) <= 1e-13
