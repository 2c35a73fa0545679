"""Rules that train one factor against a public other one, and the core between two: exactness and refusals."""

import tracemalloc

import numpy as np
import pytest

from adapters import low_rank
from potluck.aggregation import AGGREGATORS, BadSetting, BadUpdate, LowRank, Pipeline, State, Update, aggregate
from potluck.aggregation.rules.base import Module, Part
from potluck.aggregation.rules.public import moved_factor, public_part, same_basis
from rounds import SHAPE, leading, random_master, relative, round_for

ONE, TWO = np.array([[1.0], [2.0], [0.0]]), np.array([[3.0, -1.0]])
START = LowRank(ONE, TWO, 2.0)


def module(rounds: int = 0, **kwargs) -> Module:
    return Module("w", (3, 2), LowRank(np.zeros((3, 0)), np.zeros((0, 2))), rounds, **kwargs)


def test_the_part_of_an_update_that_trained_b():
    """The scale goes with the trained factor; the matrix of the change is the innovation."""
    trained = LowRank(ONE + np.array([[1], [0], [4]]), TWO, 2.0)

    part = public_part(trained, START)

    assert (part.factor, part.frozen is trained.a) == ("b", True)
    np.testing.assert_array_equal(part.change, [[2], [0], [8]])
    np.testing.assert_array_equal(part.low_rank(part.change.ravel()).dense(), trained.dense() - START.dense())


def test_the_part_of_an_update_that_trained_a():
    trained = LowRank(ONE, TWO + np.array([[0.5, 2]]), 2.0)

    part = public_part(trained, START)

    assert (part.factor, part.frozen is trained.b) == ("a", True)
    np.testing.assert_array_equal(part.change, [[1, 4]])
    np.testing.assert_array_equal(part.low_rank(part.change.ravel()).dense(), trained.dense() - START.dense())


def test_a_change_of_scale_is_a_change_of_b():
    """s·B − s₀·B₀ with the same B."""
    part = public_part(LowRank(ONE, TWO, 5.0), START)

    assert part.factor == "b"
    np.testing.assert_array_equal(part.change, 3 * ONE)


def test_an_update_that_trained_nothing_fits_either_factor():
    """A volunteer whose loss was not finite sends its start back."""
    assert moved_factor(START, START) is None
    for factor, shape in (("b", (3, 1)), ("a", (1, 2)), (None, (3, 1))):
        part = public_part(START, START, factor=factor)
        assert (part.factor, part.change.shape, part.change.any()) == (factor or "b", shape, False)


def test_a_start_at_zero_is_b_zero_beside_the_public_a():
    """As LoRA begins."""
    part = public_part(START, LowRank(np.zeros((3, 0)), np.zeros((0, 2))))

    assert part.factor == "b"
    np.testing.assert_array_equal(part.change, 2 * ONE)


def test_a_start_at_zero_has_the_scale_of_what_came_of_it():
    """B = 0 at any scale is nothing trained, for either factor."""
    nothing = LowRank(np.zeros((3, 0)), np.zeros((0, 2)))
    begun = LowRank(0 * ONE, TWO, 2.0)

    assert moved_factor(begun, nothing) is None
    assert moved_factor(LowRank(ONE, TWO, 2.0), nothing) == "b"
    for factor in ("b", "a"):
        assert not public_part(begun, nothing, factor=factor).change.any()


@pytest.mark.parametrize("unit", [1.0, 2.0, -4.0])
@pytest.mark.parametrize("scale", [2.0, 3.0])
@pytest.mark.parametrize("factor", ["b", "a"])
def test_a_change_is_counted_in_any_unit_and_written_where_it_is_wanted(factor: str, scale: float, unit: float):
    """(s·B − s₀·B₀) / unit beside the public A times unit is the innovation; of one scale or of two."""
    trained = LowRank(ONE + np.array([[1], [0], [4]]), TWO, scale)
    if factor == "a":
        trained = LowRank(ONE, TWO + np.array([[0.5, 2]]), scale)
    room = np.full((3, 1) if factor == "b" else (1, 2), np.nan)

    part = public_part(trained, START, factor=factor, out=room, unit=unit)

    assert (part.change is room, part.unit) == (True, unit)
    mine, base = (trained.b, ONE) if factor == "b" else (trained.a, TWO)
    np.testing.assert_allclose(part.change, (scale * mine - 2.0 * base) / unit, rtol=1e-15)
    np.testing.assert_allclose(part.low_rank(part.change).dense(), trained.dense() - START.dense(), rtol=1e-15)


def test_two_scales_are_subtracted_in_float64():
    """Each product would be rounded to float32 before the difference, which is a ten-thousandth of it."""
    base = np.array([[1 / 3], [1e-3]], np.float32)
    start, trained = (
        LowRank(base, np.ones((1, 2), np.float32), 0.1),
        LowRank(base, np.ones((1, 2), np.float32), 0.10001),
    )
    exact = 0.10001 * base.astype(float) - 0.1 * base.astype(float)

    for room in (None, np.empty((2, 1))):
        np.testing.assert_array_equal(public_part(trained, start, out=room).change, exact)
    assert public_part(trained, start, dtype=np.float32).change.dtype == np.float32


def test_float32_stays_float32_if_asked_and_is_exact_otherwise():
    """Coordinates are sorted as they came; sums are taken in float64, where the difference of two float32 is exact."""
    base = np.array([[1 / 3], [1e-3]], np.float32)
    start, trained = (LowRank(b, np.ones((1, 2), np.float32), 0.1) for b in (base, base + np.float32(1e-7)))
    exact = 0.1 * (trained.b.astype(float) - base)

    assert public_part(trained, start, dtype=np.float32).change.dtype == np.float32
    np.testing.assert_allclose(public_part(trained, start, dtype=np.float32).change, exact, rtol=2e-7)
    np.testing.assert_array_equal(public_part(trained, start).change, exact)


@pytest.mark.parametrize(
    ("trained", "factor", "message"),
    [
        (LowRank(ONE + 1, TWO + np.array([[0.25, -0.5]]), 2.0), None, "A was to stay .* up to 0.5: .* different bases"),
        (LowRank(ONE, TWO + np.array([[0, 3]]), 2.0), "b", "A was to stay .* up to 3: .* different bases"),
        (LowRank(ONE - 2, TWO, 2.0), "a", "B was to stay .* up to 2: .* different bases"),
        (LowRank(np.ones((3, 2)), np.ones((2, 2)), 2.0), None, "started with rank 1 and trained with 2: .* bases"),
    ],
)
def test_an_update_without_a_public_factor_is_refused(trained, factor, message):
    """With the reason, and by how much."""
    with pytest.raises(BadUpdate, match=message) as refusal:
        public_part(trained, START, where="layer 3", factor=factor)

    assert "layer 3" in str(refusal.value)
    assert "mean" in refusal.value.__notes__[0]


def test_a_module_without_a_name_is_called_a_module():
    with pytest.raises(BadUpdate, match=r"^a module: A was to stay"):
        public_part(LowRank(ONE, TWO + 1, 2.0), START, factor="b")


@pytest.mark.parametrize("name", ["ffa", "fedsvd", "rolora", "fedsa"])
def test_linear_rules_take_any_mix_of_scales(name: str):
    """By hand: a quarter of 4·1 and three quarters of −2·3, in units of whichever came first."""
    fold = AGGREGATORS[name]().fold(module())
    for weight, scale, step in ((0.25, 4.0, 1.0), (0.75, -2.0, 3.0)):
        start = LowRank(ONE, TWO, scale)
        moved = LowRank(ONE, TWO + step, scale) if name == "fedsa" else LowRank(ONE + step, TWO, scale)
        fold.add(Part(weight, moved, start))

    (term,) = fold.combined(0.5)

    change = 2 * (0.25 * 4.0 * 1.0 - 0.75 * 2.0 * 3.0)
    expected = ONE @ np.full((1, 2), change) if name == "fedsa" else np.full((3, 1), change) @ TWO
    np.testing.assert_allclose(term.dense(), expected, rtol=1e-15)


def test_two_bases_are_refused():
    """Another factor, another shape, another content; the same content elsewhere in memory is the same basis."""
    first = public_part(LowRank(ONE + 1, TWO, 2.0), START)
    turned = LowRank(ONE / 2, 2 * TWO, 2.0)
    wide = LowRank(np.ones((3, 2)), np.ones((2, 2)))

    same_basis("w", first, public_part(LowRank(ONE - 1, TWO.copy(), 2.0), START))
    for other, message in (
        (public_part(LowRank(ONE, TWO + 1, 2.0), START), "w: some updates trained B, others A"),
        (public_part(LowRank(ONE, turned.a, 2.0), turned), "w: the public factors of two updates differ by up to 3:"),
        (public_part(LowRank(wide.b + 1, wide.a), wide), r"w: the public factor is \(1, 2\) in one .* \(2, 2\)"),
    ):
        with pytest.raises(BadUpdate, match=message):
            same_basis("w", first, other)


@pytest.mark.parametrize("name", ["ffa", "fedsvd"])
def test_rules_that_train_b_refuse_a_trained_a(name: str):
    with pytest.raises(BadUpdate, match=r"w: A was to stay as it was published and moved by up to 0\.5"):
        aggregate([Update({"w": LowRank(ONE, TWO + 0.5, 2.0)}, {"w": START}, 1)], {}, Pipeline(rule=name))


def test_fedsa_refuses_a_private_b():
    """It was to stay with the client."""
    with pytest.raises(BadUpdate, match="w: B was to stay as it was published"):
        aggregate([Update({"w": LowRank(ONE + 1, TWO + 1, 2.0)}, {"w": START}, 1)], {}, Pipeline(rule="fedsa"))


def test_rolora_refuses_a_mixture_of_parities():
    """A late update of the other parity; one that trained nothing fits either."""
    trained_b, trained_a = LowRank(ONE + 1, TWO, 2.0), LowRank(ONE, TWO + 1, 2.0)
    fold = AGGREGATORS["rolora"]().fold(module())
    fold.add(Part(0.25, START, START))
    fold.add(Part(0.5, trained_b, START))
    fold.add(Part(0.25, START, START))

    np.testing.assert_array_equal(fold.combined(1.0)[0].dense(), 0.5 * 2 * np.ones((3, 1)) @ TWO)
    with pytest.raises(BadUpdate, match="w: some updates trained B, others A"):
        fold.add(Part(1.0, trained_a, START))


def test_rolora_refuses_an_update_from_before_the_other_factor_changed():
    """Same parity, two versions late: its A is not the published one any more."""
    late = LowRank(ONE, TWO + 1, 2.0)
    fold = AGGREGATORS["rolora"]().fold(module())
    fold.add(Part(0.5, LowRank(ONE + 1, TWO, 2.0), START))

    with pytest.raises(BadUpdate, match="public factors of two updates differ by up to 1:"):
        fold.add(Part(0.5, LowRank(late.b + 1, late.a, 2.0), late))


@pytest.mark.parametrize("name", ["ffa", "rolora", "fedsvd", "fedsa", "fedsb"])
def test_a_linear_sum_is_that_of_the_products(name: str):
    """T9's second half: with a public factor, the sum of what was trained is the exact sum."""
    round_ = round_for(name, np.random.default_rng(7))
    options = {"rank": 64, "f": 0}

    linear, products = (
        aggregate(round_.updates, {"w": round_.before}, Pipeline(rule=rule, **options), State(rounds=round_.rounds))
        for rule in (name, "mean")
    )

    assert relative(linear.master["w"].dense(), products.master["w"].dense()) <= 1e-12


def test_a_linear_fold_holds_one_module_however_many_updates():
    """Four hundred updates take no more room than forty."""

    def peak(count: int) -> int:
        rng = np.random.default_rng(8)
        public = rng.normal(size=(4, 300)).astype(np.float32)
        fold = AGGREGATORS["ffa"]().fold(Module("w", (500, 300), LowRank(np.zeros((500, 0)), np.zeros((0, 300)))))
        tracemalloc.start()
        for _ in range(count):
            fold.add(
                Part(
                    1.0,
                    LowRank(rng.normal(size=(500, 4)).astype(np.float32), public),
                    LowRank(np.zeros((500, 0)), np.zeros((0, 300))),
                )
            )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(400) <= 1.05 * peak(40)


def test_the_master_of_ffa_keeps_the_public_factor_and_that_of_fedsvd_is_its_decomposition():
    """The same matrix in two bases: the drawn A, and orthogonal rows in the order of σ."""
    rng = np.random.default_rng(9)
    public = low_rank(rng, SHAPE, 4)
    updates = [
        Update({"w": LowRank(public.b + low_rank(rng, SHAPE, 4).b, public.a)}, {"w": public}, 1) for _ in range(3)
    ]

    ffa, fedsvd = (aggregate(updates, {"w": public}, Pipeline(rule=rule)).master["w"] for rule in ("ffa", "fedsvd"))

    np.testing.assert_array_equal(ffa.a, public.a)
    rows = fedsvd.a @ fedsvd.a.T
    np.testing.assert_allclose(rows, np.diag(np.diag(rows)), atol=1e-12)
    assert np.all(np.diff(np.diag(rows)) < 0)
    assert relative(fedsvd.dense(), ffa.dense()) <= 1e-13
    projector = np.linalg.pinv(public.a.astype(float)) @ public.a
    np.testing.assert_allclose(fedsvd.a @ projector, fedsvd.a, atol=1e-12)  # training B never leaves the row space


def test_fedsb_needs_a_master_that_spans_its_subspaces():
    with pytest.raises(BadUpdate, match="w has no public factors yet"):
        AGGREGATORS["fedsb"]().fold(module())


def test_fedsb_drops_rounding_and_refuses_what_was_trained_elsewhere():
    """Below the slack the part outside is dropped, above it the update is refused with the share."""
    before = random_master(np.random.default_rng(10), 2)
    start = leading(before, 2)
    u, _, vt = np.linalg.svd(before.dense())
    size = start.norm()

    def update(share: float) -> list[Update]:
        extra = share / np.sqrt(1 - share**2) * size
        b, a = np.hstack([start.b, extra * u[:, 5:6]]), np.vstack([start.a, vt[5:6]])
        return [Update({"w": LowRank(b, a)}, {"w": start}, 1)]

    inside = aggregate(update(0.009), {"w": before}, Pipeline(rule="fedsb")).master["w"]
    assert relative(inside.dense(), before.dense()) <= 1e-12
    with pytest.raises(BadUpdate, match=r"w: 1\.1% of an update lies outside .* where 1\.0% may"):
        aggregate(update(0.011), {"w": before}, Pipeline(rule="fedsb"))
    wider = Pipeline(rule="fedsb", settings={"slack": 0.012})
    assert relative(aggregate(update(0.011), {"w": before}, wider).master["w"].dense(), before.dense()) <= 1e-12


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("fedsb", {"slack": 1.0}),
        ("fedsb", {"slack": -0.1}),
        ("florist", {"energy": 0.0}),
        ("florist", {"energy": 1.01}),
    ],
)
def test_settings_out_of_range_are_refused(rule: str, settings):
    with pytest.raises(BadSetting, match=rule):
        Pipeline(rule=rule, settings=settings)


def test_settings_at_the_bounds_are_taken():
    assert Pipeline(rule="fedsb", settings={"slack": 0.0}).settings["slack"] == 0.0
    assert Pipeline(rule="florist", settings={"energy": 1.0}).settings["energy"] == 1.0


def test_fedsb_takes_the_rounding_of_published_factors_at_no_slack():
    """What is published is float32, and a core between rounded factors is outside of the subspaces by that much."""
    rng = np.random.default_rng(11)
    before = random_master(rng, 3)
    start = LowRank(before.b.astype(np.float32), before.a.astype(np.float32))
    trained = LowRank(start.b @ (np.eye(3) + 0.1 * rng.normal(size=(3, 3))).astype(np.float32), start.a)

    after = aggregate(
        [Update({"w": trained}, {"w": start}, 1)], {"w": before}, Pipeline(rule="fedsb", settings={"slack": 0.0})
    )

    assert relative(after.master["w"].dense() - before.dense(), trained.dense() - start.dense()) <= 1e-5


def test_fedsb_takes_a_core_that_began_at_zero():
    """A start of rank 0 lies in every subspace."""
    before = random_master(np.random.default_rng(12), 3)
    update = Update({"w": leading(before, 2)}, {}, 1)

    after = aggregate([update], {"w": before}, Pipeline(rule="fedsb")).master["w"]

    assert relative(after.dense(), before.dense() + leading(before, 2).dense()) <= 1e-12
