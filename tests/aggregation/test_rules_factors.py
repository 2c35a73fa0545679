"""Rules that combine factors or whole products: what they refuse, and what each does that the others do not."""

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import AGGREGATORS, BadUpdate, LowRank, Pipeline, State, Update, aggregate
from potluck.aggregation.rules.base import Coordinatewise, Module, Part
from rounds import SHAPE, leading, random_master, relative

NOTHING = LowRank(np.zeros((SHAPE[0], 0)), np.zeros((0, SHAPE[1])))
RNG_SEED = 21


def fold_of(name: str, *, rounds: int = 0, master: LowRank = NOTHING, ranks=(), weights=()):
    """Return an empty fold of a module "w"."""
    return AGGREGATORS[name]().fold(Module("w", SHAPE, master, rounds, ranks, weights, rank=64))


@pytest.mark.parametrize("name", ["fedit", "fedrot"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 2}, "w has rank 2 and scale 2.0 in one update, 3 and 2.0 in another"),
        ({"scale": 4.0}, "w has rank 3 and scale 4.0 in one update, 3 and 2.0 in another"),
        ({"other_b": True}, "w was started from different factors in two updates, .* different bases"),
        ({"other_a": True}, "w was started from different factors in two updates, .* different bases"),
    ],
)
def test_means_of_factors_refuse_another_rank_scale_or_start(name: str, change, message: str):
    """By themselves, and not only in the driver: a fold is the place that knows."""
    rng = np.random.default_rng(RNG_SEED)
    start = low_rank(rng, SHAPE, 3, 2.0)
    other = low_rank(rng, SHAPE, change.get("rank", 3), change.get("scale", 2.0))
    if not change.keys() & {"other_b"}:
        other = LowRank(start.b[:, : other.rank], other.a, other.scale)
    if not change.keys() & {"other_a"}:
        other = LowRank(other.b, start.a[: other.rank], other.scale)
    fold = fold_of(name)
    fold.add(Part(0.5, trained_from(rng, start), start))

    with pytest.raises(BadUpdate, match=message) as refusal:
        fold.add(Part(0.5, trained_from(rng, other), other))

    assert "mean" in refusal.value.__notes__[0]


def test_means_of_factors_refuse_an_update_whose_rank_changed_in_training():
    rng = np.random.default_rng(RNG_SEED)

    for name in ("fedit", "fedrot"):
        with pytest.raises(BadUpdate, match=r"w has rank 2 and scale 1\.0 in one update, 3 and 1\.0 in another"):
            fold_of(name).add(Part(1.0, low_rank(rng, SHAPE, 2), low_rank(rng, SHAPE, 3)))


def test_fedit_takes_updates_that_began_at_zero():
    """The mean of the factors themselves."""
    rng = np.random.default_rng(RNG_SEED)
    one, two = low_rank(rng, SHAPE, 3, 4.0), low_rank(rng, SHAPE, 3, 4.0)
    fold = fold_of("fedit")
    fold.add(Part(0.25, one, NOTHING))
    fold.add(Part(0.75, two, NOTHING))

    b, a = (0.25 * x.astype(float) + 0.75 * y.astype(float) for x, y in ((one.b, two.b), (one.a, two.a)))
    assert relative(sum(term.dense() for term in fold.combined(1.0)), 4.0 * b @ a) <= 1e-14


def test_fedit_subtracts_float32_in_float64():
    """Where factors shrink to a third their difference is no float32: only near ones have an exact one."""
    rng = np.random.default_rng(RNG_SEED)
    start = low_rank(rng, SHAPE, 2)
    trained = LowRank(np.float32(0.3) * start.b, np.float32(-0.7) * start.a)
    fold = fold_of("fedit")
    fold.add(Part(1.0, trained, start))

    found = sum(term.dense() for term in fold.combined(1.0))

    assert relative(found, trained.dense() - start.dense()) <= 1e-14


@pytest.mark.parametrize(("rounds", "letter"), [(0, "A"), (1, "B"), (2, "A"), (3, "B")])
def test_fedrot_refuses_a_round_without_a_reference(rounds: int, letter: str):
    """LoRA begins with B = 0, so the first round aligns A; a start of nothing has neither."""
    rng = np.random.default_rng(RNG_SEED)
    start = low_rank(rng, SHAPE, 3)
    zero_b, zero_a = LowRank(0 * start.b, start.a), LowRank(start.b, 0 * start.a)
    blind, fine = (zero_a, zero_b) if letter == "A" else (zero_b, zero_a)

    fold_of("fedrot", rounds=rounds).add(Part(1.0, trained_from(rng, fine), fine))
    for without in (blind, NOTHING):
        with pytest.raises(BadUpdate, match=f"w was started with {letter} = 0 in a round that aligns {letter}"):
            fold_of("fedrot", rounds=rounds).add(Part(1.0, trained_from(rng, start), without))


def test_fedex_refuses_a_mix_of_ranks_or_scales():
    """As published; `mean` is the rule for mixes."""
    rng = np.random.default_rng(RNG_SEED)

    for other, facts in (
        (low_rank(rng, SHAPE, 2), "rank 2 and scale 1.0"),
        (low_rank(rng, SHAPE, 3, 2.0), "rank 3 and scale 2.0"),
    ):
        fold = fold_of("fedex")
        fold.add(Part(0.5, low_rank(rng, SHAPE, 3), NOTHING))
        with pytest.raises(BadUpdate, match=f"w has {facts} in one update, 3 and 1.0 in another") as refusal:
            fold.add(Part(0.5, other, NOTHING))
        assert "mean" in refusal.value.__notes__[0]


@pytest.mark.parametrize("name", ["hetlora", "raflora"])
def test_rules_on_columns_refuse_what_is_not_the_leading_part_of_one_start(name: str):
    """Another version, another scale, a start that is missing, a rank that changed; in either order of widths."""
    rng = np.random.default_rng(RNG_SEED)
    wide = low_rank(rng, SHAPE, 4)
    narrow = leading(wide, 2)
    other = low_rank(rng, SHAPE, 2)
    refusals = [
        (LowRank(other.b, narrow.a), "started from rank 2 in one update, which is not the leading part of the rank 4"),
        (LowRank(narrow.b, other.a), "started from rank 2 in one update, which is not the leading part of the rank 4"),
        (LowRank(narrow.b, narrow.a, 2.0), "w has the scales 2.0 and 2.0 in one update, 1.0 in another"),
    ]
    for start, message in refusals:
        for first, second in ((wide, start), (start, wide)):
            fold = fold_of(name, ranks=(4, 4), weights=(0.5, 0.5))
            fold.add(Part(0.5, trained_from(rng, first), first))
            with pytest.raises(
                BadUpdate, match=message.replace("2.0 and 2.0 in one update, 1.0", r"\d.0 and \d.0 in one update, \d.0")
            ):
                fold.add(Part(0.5, trained_from(rng, second), second))

    fold = fold_of(name, ranks=(4, 4), weights=(0.5, 0.5))
    fold.add(Part(0.5, trained_from(rng, wide), wide))
    with pytest.raises(
        BadUpdate, match="started from rank 0 in one update, which is not the leading part of the rank 4"
    ):
        fold.add(Part(0.5, wide, NOTHING))
    with pytest.raises(BadUpdate, match="w was started with rank 2 and trained with 4"):
        fold.add(Part(0.5, wide, narrow))
    with pytest.raises(BadUpdate, match=r"w has the scales 2\.0 and 1\.0 in one update, 1\.0 in another"):
        fold.add(Part(0.5, wide, LowRank(wide.b, wide.a, 2.0)))


@pytest.mark.parametrize("name", ["hetlora", "raflora"])
def test_rules_on_columns_take_narrow_before_wide_and_updates_from_zero(name: str):
    """The order of reading is that of digests: no rank comes first."""
    rng = np.random.default_rng(RNG_SEED)
    wide = low_rank(rng, SHAPE, 4)
    parts = [
        Part(share, trained_from(rng, leading(wide, rank)), leading(wide, rank))
        for share, rank in ((0.5, 2), (0.25, 4), (0.25, 3))
    ]
    sums = []
    for order in (parts, parts[::-1]):
        fold = fold_of(
            name, master=wide, ranks=tuple(p.trained.rank for p in order), weights=tuple(p.weight for p in order)
        )
        for part in order:
            fold.add(part)
        sums.append(sum(term.dense() for term in fold.combined(1.0)))

    assert relative(sums[0], sums[1]) <= 1e-13
    fresh = fold_of(name, ranks=(2,), weights=(1.0,))
    fresh.add(Part(1.0, leading(wide, 2), NOTHING))
    assert relative(sum(term.dense() for term in fresh.combined(1.0)), leading(wide, 2).dense()) <= 1e-14


def test_hetlora_of_products_that_are_all_zero_is_zero():
    """No norm to divide by: the mean of zeros, and the master goes."""
    before = random_master(np.random.default_rng(RNG_SEED), 2)
    still = LowRank(0 * before.b, before.a)
    fold = fold_of("hetlora", master=before)
    fold.add(Part(0.5, still, still))

    assert relative(sum(term.dense() for term in fold.combined(1.0)), -0.5 * before.dense()) <= 1e-15


def test_raflora_leaves_a_column_alone_whose_clients_have_no_weight():
    """A selection that gave the only large client nothing must not divide by nothing."""
    rng = np.random.default_rng(RNG_SEED)
    wide = low_rank(rng, SHAPE, 3)
    small, large = leading(wide, 1), wide
    trained = trained_from(rng, small)
    fold = fold_of("raflora", ranks=(1, 3), weights=(1.0, 0.0))
    fold.add(Part(1.0, trained, small))
    fold.add(Part(0.0, trained_from(rng, large), large))

    assert relative(sum(term.dense() for term in fold.combined(1.0)), trained.dense() - small.dense()) <= 1e-12


def test_florist_cuts_by_energy_of_the_new_master_and_not_of_the_change():
    """The cut is of Σ cᵢsᵢBᵢAᵢ; the master it replaces goes whole."""
    before = LowRank(np.eye(2)[:, :1] * 5, np.eye(2)[:1])
    update = Update({"w": LowRank(np.diag([3.0, 1.0]), np.eye(2))}, {}, 1)  # shares of energy: 0.9 and 0.1

    for energy, expected in ((0.89, [3, 0]), (0.91, [3, 1])):
        master = aggregate([update], {"w": before}, Pipeline(rule="florist", settings={"energy": energy})).master["w"]
        np.testing.assert_allclose(master.dense(), np.diag(expected), atol=1e-12)


@pytest.mark.parametrize("name", ["mean", "flora", "fedex", "flexlora", "florist", "hetlora", "raflora", "fedit"])
def test_folds_over_a_large_cohort_keep_their_promise(name: str):
    """Over `exact_up_to` sums are sketched: to a thousandth of the optimal truncation here, and the same rule."""
    rng = np.random.default_rng(RNG_SEED)
    before = random_master(rng, 3)
    updates = [Update({"w": trained_from(rng, before, 0.02)}, {"w": before}, 1 + i % 3) for i in range(12)]

    exact, sketched = (
        aggregate(updates, {"w": before}, Pipeline(rule=name, rank=8, exact_up_to=most), State()).master["w"].dense()
        for most in (64, 4)
    )

    assert relative(sketched, exact) <= 1e-3


def test_raflora_weighs_every_column_at_its_scale():
    """Two ranks at the scale 3: the first column by both, the second by the one that has it, cross terms and all."""
    rng = np.random.default_rng(RNG_SEED)
    wide = low_rank(rng, SHAPE, 2, 3.0)
    starts = [leading(wide, 1), wide]
    trained = [trained_from(rng, start, 0.7) for start in starts]
    fold = fold_of("raflora", ranks=(1, 2), weights=(0.75, 0.25))
    for weight, end, start in zip((0.75, 0.25), trained, starts, strict=True):
        fold.add(Part(weight, end, start))

    def column(term: LowRank, place: int) -> np.ndarray:
        return 3.0 * np.outer(term.b[:, place].astype(float), term.a[place].astype(float))

    first = [column(end, 0) - column(start, 0) for end, start in zip(trained, starts, strict=True)]
    second = column(trained[1], 1) - column(wide, 1)
    expected = 0.75 * first[0] + 0.25 * first[1] + second
    assert relative(sum(term.dense() for term in fold.combined(1.0)), expected) <= 1e-14


@pytest.mark.parametrize("wide", [0, 1, 2, 3])
def test_raflora_sketches_in_the_widest_type_of_an_update(wide: int):
    """A digit that only one float64 factor has is not lost."""
    rng = np.random.default_rng(RNG_SEED)
    start = low_rank(rng, SHAPE, 2)
    moved = trained_from(rng, start)
    factors = [moved.b, moved.a, start.b, start.a]
    factors[wide] = factors[wide].astype(np.float64) + 1e-9 * rng.normal(size=factors[wide].shape)
    trained, start = LowRank(*factors[:2]), LowRank(*factors[2:])
    module = Module("w", SHAPE, NOTHING, ranks=(2,), weights=(1.0,), exact=False, rank=4)
    fold = AGGREGATORS["raflora"]().fold(module)

    fold.add(Part(1.0, trained, start))

    assert relative(sum(term.dense() for term in fold.combined(1.0)), trained.dense() - start.dense()) <= 1e-12


def test_raflora_sums_float32_in_float64_where_sums_are_exact():
    """The difference of two float32 is exact in float64, and rounded in float32 where they are not close."""
    rng = np.random.default_rng(RNG_SEED)
    start = low_rank(rng, SHAPE, 3)
    trained = trained_from(rng, start, 0.7)
    fold = fold_of("raflora", ranks=(3,), weights=(1.0,))
    fold.add(Part(1.0, trained, start))

    assert relative(sum(term.dense() for term in fold.combined(1.0)), trained.dense() - start.dense()) <= 1e-12


def test_what_the_rules_declare():
    """The driver goes by these: which factor clients train, who must look ahead, who needs one and the same start."""
    folding = {name: kind() for name, kind in AGGREGATORS.items() if not isinstance(kind(), Coordinatewise)}
    trains = {"ffa": "b", "fedsvd": "b", "fedsa": "a", "rolora": "alternately", "fedsb": "core"}

    assert {name for name, rule in folding.items() if rule.foresees} == {"raflora"}
    assert {name for name, rule in folding.items() if not rule.any_start} == {"fedit", "fedrot"}
    assert {name: rule.trains for name, rule in folding.items()} == {name: trains.get(name, "both") for name in folding}
    assert {kind().trains for name, kind in AGGREGATORS.items() if name not in folding} == {"b"}
    assert {name for name, kind in AGGREGATORS.items() if getattr(kind(), "needs", "")} == {"bulyan"}
