"""What holds for every weight step: no gauge, order, scale or outlier moves what must not move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballots import ballot_of, cast, factored, facts
from potluck.aggregation import BadSetting, gram
from potluck.aggregation.weights.ballot import Ballot
from potluck.aggregation.weights.directions import outlying
from potluck.aggregation.weights.mixing import nearest_means
from potluck.aggregation.weights.registry import DEFAULT_DEFENCE, WEIGHTS
from potluck.aggregation.weights.selection import best

SEEDS = st.integers(0, 2**32 - 1)
STEPS = (
    "norm_bound",
    "arc",
    "centered_clip",
    "nnm",
    "geomedian",
    "mda",
    "dnc",
    "cosine",
    "krum",
    "multikrum",
    "bulyan_selection",
)
CHAINS = [(name,) for name in STEPS] + [
    DEFAULT_DEFENCE,
    ("fednova", "arc", "nnm", "multikrum"),
    ("cap", "norm_bound", "krum"),
    ("bucketing", "geomedian"),
    ("nnm", "nnm", "centered_clip"),
    ("norm_bound", "foolsgold"),
    ("multikrum", "cosine", "geomedian"),
]

BOUNDLESS = {("nnm",), ("cosine",)}
"""No defences against length: a mean of neighbours, a filter of directions."""


def honest(rng: np.random.Generator, n: int, p: int = 24):
    return rng.normal(size=(n, p)) + rng.normal(size=p)


@settings(max_examples=10)
@given(SEEDS)
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_no_gauge_moves_a_weight(chain: tuple[str, ...], seed: int):
    """An attacker chooses its factors freely, so nothing may depend on more than their product."""
    rows = honest(np.random.default_rng(seed), 11)
    known = facts(11, f=2, seed=5)
    products = [gram([factored(row, place + 100 * turn) for place, row in enumerate(rows)]) for turn in (0, 1)]

    one, other = (cast(Ballot(known, np.eye(11), np.full(11, 1 / 11), k), chain) for k in products)

    assert one.coefficients == pytest.approx(other.coefficients, abs=1e-8)


@settings(max_examples=10)
@given(SEEDS)
@pytest.mark.parametrize("chain", [c for c in CHAINS if c[0] not in {"bucketing", "mda"}], ids="-".join)
def test_no_order_moves_the_result(chain: tuple[str, ...], seed: int):
    """The places of the updates mean nothing, but where the best subset or bucket is one of equals.

    Then the place decides, and places are given by the contents' digests before any step.
    """
    rng = np.random.default_rng(seed)
    rows, order = honest(rng, 11), rng.permutation(11)

    one = cast(ballot_of(rows, facts(11, f=2)), chain)
    other = cast(ballot_of(rows[order], facts(11, f=2)), chain)

    assert one.coefficients[order] == pytest.approx(other.coefficients, abs=1e-6)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([1e-9, 1e7]))
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_the_unit_of_the_products_does_not_matter(chain: tuple[str, ...], seed: int, unit: float):
    """Adapters of one model move by 10⁻⁴ and of another by 10; no threshold hides in a step."""
    rows = honest(np.random.default_rng(seed), 11)

    one = cast(ballot_of(rows, facts(11, f=2)), chain)
    other = cast(ballot_of(unit * rows, facts(11, f=2)), chain)

    assert one.coefficients == pytest.approx(other.coefficients, abs=1e-7)


@settings(max_examples=10)
@given(SEEDS)
@pytest.mark.parametrize("chain", [c for c in CHAINS if c not in BOUNDLESS], ids="-".join)
def test_one_client_a_million_times_as_long_hardly_moves_the_result(chain: tuple[str, ...], seed: int):
    """Without the hostile update the result is somewhere among the honest; with it, it still is."""
    rng = np.random.default_rng(seed)
    rows = honest(rng, 11)
    reach = np.linalg.norm(rows, axis=1).max()
    rows[4] = 1e6 * rng.normal(size=24)

    ballot = cast(ballot_of(rows, facts(11, f=2)), chain)

    assert np.isfinite(ballot.coefficients).all()
    assert (ballot.coefficients >= 0).all()
    assert np.linalg.norm(ballot.coefficients @ rows) <= 2 * reach


@pytest.mark.parametrize("rows", [np.zeros((8, 12)), np.ones((8, 12))], ids=["zero", "identical"])
@pytest.mark.parametrize("chain", [c for c in CHAINS if "foolsgold" not in c], ids="-".join)
def test_equal_updates_give_that_update(chain: tuple[str, ...], rows: np.ndarray):
    """Nobody differs from anybody: every distance is 0, or rounding, and nothing is divided by it."""
    ballot = cast(ballot_of(rows, facts(8, f=1)), chain)

    assert ballot.coefficients @ rows == pytest.approx(rows[0], abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_rounds_of_very_few_are_combined(chain: tuple[str, ...], n: int):
    """A run with one volunteer is a run."""
    rows = np.abs(honest(np.random.default_rng(n), n)) + 1

    ballot = cast(ballot_of(rows), chain)

    assert np.isfinite(ballot.coefficients).all()
    assert ballot.coefficients.sum() > 0.3


@settings(max_examples=10)
@given(SEEDS)
@pytest.mark.parametrize("name", [*STEPS, "fltrust", "foolsgold", "cap", "bucketing"])
def test_what_the_round_weighs_as_a_whole_stays(name: str, seed: int):
    """Steps move weight between vectors; only a centred walk may end on the way."""
    rng = np.random.default_rng(seed)
    rows, weights = honest(rng, 11), rng.uniform(1, 1.3, 11)
    ballot = ballot_of(rows, facts(11, f=2), weights=weights, reference=rows.sum(axis=0))
    ballot = ballot.weighted(0.75 * ballot.weights)

    after = cast(ballot, [name])

    assert (after.weights >= 0).all()
    if name == "centered_clip":
        assert 0 < after.weights.sum() <= 0.75 + 1e-12
    else:
        assert after.weights.sum() == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("name", [*STEPS, "fltrust", "foolsgold", "cap", "bucketing", "fednova"])
def test_a_round_of_half_the_weight_is_half_the_round(name: str):
    """Only the weights beside each other decide; their sum goes through."""
    rng = np.random.default_rng(3)
    rows, weights = honest(rng, 11), rng.uniform(1, 1.3, 11)
    whole = ballot_of(rows, facts(11, f=2, steps=range(1, 12)), weights=weights, reference=rows.sum(axis=0))

    one, half = cast(whole, [name]), cast(whole.weighted(0.5 * whole.weights), [name])

    assert half.coefficients == pytest.approx(0.5 * one.coefficients, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_trust_does_not_depend_on_the_unit_of_the_products(unit: float):
    """Nor on a client that sent nothing, which points nowhere and is not made longer."""
    rows = np.vstack([honest(np.random.default_rng(4), 5), np.zeros((1, 24))])
    trusted = rows.sum(axis=0)

    one, other = (cast(ballot_of(size * rows, reference=size * trusted), ["fltrust"]) for size in (1.0, unit))

    assert other.coefficients == pytest.approx(one.coefficients, rel=1e-9)
    assert one.coefficients[5] == 0
    assert not one.mix[5].any()
    lengths = np.linalg.norm(one.mix @ rows, axis=1)
    assert lengths == pytest.approx([np.linalg.norm(trusted)] * 5 + [0.0])


def test_of_equals_the_first_are_kept():
    """However many: a sort that is not stable would leave it to the machine."""
    scores = np.random.default_rng(5).integers(0, 3, 400).astype(float)
    lowest = np.flatnonzero(scores == 0)
    nothing = np.zeros((400, 400))

    assert best(scores, 20).tolist() == lowest[:20].tolist()
    near = nearest_means(nothing, 5)
    assert np.flatnonzero(near[0]).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(near[300]).tolist() == [0, 1, 2, 3, 300]
    assert np.unique(near).tolist() == [0.0, 0.2]


def test_what_sticks_out_is_measured_along_the_direction_of_the_largest_spread():
    """λ·uₐ² of the vectors about their mean, by their singular value decomposition, in the unit of their products."""
    for size in (1e-3, 1.0, 1e3):
        rows = size * honest(np.random.default_rng(6), 9)
        u, sigma, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)

        assert outlying(rows @ rows.T) == pytest.approx(sigma[0] ** 2 * u[:, 0] ** 2, rel=1e-9)
    assert outlying(np.ones((3, 3))).tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 4))
def test_buckets_keep_the_mean(seed: int, size: int):
    """A bucket weighs what its members weigh, so averaging all buckets is averaging all updates, uneven or not."""
    rng = np.random.default_rng(seed)
    rows, weights = honest(rng, 10), rng.uniform(0.5, 2, 10)

    ballot = cast(ballot_of(rows, facts(10, seed=seed), weights=weights), ["bucketing"], {"bucket_size": size})

    assert ballot.coefficients == pytest.approx(weights / weights.sum(), abs=1e-12)
    assert ballot.mix.shape == (-(-10 // size), 10)
    assert ballot.mix.sum(axis=1) == pytest.approx(1)
    assert ((ballot.mix > 0).sum(axis=0) == 1).all()


def test_another_seed_makes_other_buckets():
    """Nobody can choose their bucket."""
    rows = honest(np.random.default_rng(0), 10)
    mixes = [cast(ballot_of(rows, facts(10, seed=seed)), ["bucketing"]).mix for seed in (1, 1, 2)]

    assert np.array_equal(mixes[0], mixes[1])
    assert not np.array_equal(mixes[0], mixes[2])


@settings(max_examples=20)
@given(SEEDS, st.floats(0.01, 0.5))
def test_clipping_gives_the_products_the_norm_it_says(seed: int, bound: float):
    """T10: ‖s·B·A‖ is c afterwards, under any gauge; scaling both factors would leave c²."""
    rows = honest(np.random.default_rng(seed), 6)

    ballot = cast(ballot_of(rows), ["norm_bound"], {"max_norm": bound})

    terms = [[term.times(ballot.mix[i, i]) for term in factored(row, i).values()] for i, row in enumerate(rows)]
    for pair in terms:
        assert np.hypot(*(term.norm() for term in pair)) == pytest.approx(bound, rel=1e-12)


def test_what_is_short_is_not_lengthened():
    """A bound is no target: three updates below the median norm keep theirs."""
    rows = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 60.0, 7.0])

    ballot = cast(ballot_of(rows), ["norm_bound"])

    assert np.linalg.norm(ballot.mix @ rows, axis=1) == pytest.approx([1, 2, 3, 4, 4, 4, 4], rel=1e-12)


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([1e-2, 1.0, 1e2]))
def test_the_median_moves_with_its_vectors(seed: int, shift: float):
    """Started at zero and stopped early, as elsewhere, a median of the same vectors elsewhere is another one."""
    rng = np.random.default_rng(seed)
    rows, away = honest(rng, 9), shift * rng.normal(size=24)

    here = cast(ballot_of(rows, facts(9, f=2)), ["geomedian"]).coefficients
    there = cast(ballot_of(rows + away, facts(9, f=2)), ["geomedian"]).coefficients

    assert here @ rows + away == pytest.approx(there @ (rows + away), abs=1e-5 * max(1, shift))


def test_a_minority_cannot_carry_the_median_away():
    """Four of nine in one place far out: the median stays within reach of the five."""
    rows = honest(np.random.default_rng(2), 9)
    spread = np.linalg.norm(rows[4:] - rows[4:].mean(axis=0), axis=1).max()
    rows[:4] = 1e5

    found = cast(ballot_of(rows, facts(9, f=4)), ["geomedian"])

    # Lopuhaä and Rousseeuw 1991: within 2(1 − α)/(1 − 2α) times the spread, α = 4/9
    assert np.linalg.norm(found.coefficients @ rows - rows[4:].mean(axis=0)) <= 10 * spread


def test_a_step_that_forgot_to_ask_for_products_is_told():
    with pytest.raises(BadSetting, match="reads the Gram matrix"):
        cast(Ballot(facts(3), np.eye(3), np.full(3, 1 / 3)), ["krum"])


@pytest.mark.parametrize("name", sorted(set(WEIGHTS) - {"examples", "uniform", "staleness"}))
def test_a_step_says_whether_it_reads_the_products(name: str):
    """The driver computes them only when asked: that is a pass over all updates."""
    rows = honest(np.random.default_rng(1), 7)
    blind = Ballot(facts(7, f=1), np.eye(7), np.full(7, 1 / 7), None, np.ones(8))

    if WEIGHTS[name].reads_gram:
        with pytest.raises(BadSetting):
            cast(blind, [name])
    else:
        assert cast(blind, [name]).coefficients @ rows == pytest.approx(rows.mean(axis=0))
