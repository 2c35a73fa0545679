"""The pass over coordinates: whose values a rule is handed, in which order, in how many groups, and the norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pytest

from adapters import low_rank
from potluck.aggregation import BadUpdate, LowRank, StoredUpdates, Update
from potluck.aggregation.cohort import Cohort, Read
from potluck.aggregation.coordinates import (
    AT_ONCE,
    MOST_BYTES,
    SAMPLED,
    Choice,
    Coordinates,
    NotFinite,
    Span,
    coordinates,
    grouped,
    laid,
    stride_of,
)
from potluck.aggregation.weights.ballot import Ballot, Facts

NONE = LowRank(np.zeros((40, 0)), np.zeros((0, 6)))


@dataclass(frozen=True)
class Places:
    """Returns (f + 1)·Σ 10ⁱ·valueᵢ, of the values in ascending order: every value leaves a digit of its own."""

    trains: ClassVar[Literal["b", "a", "both"]] = "b"
    needs: ClassVar[str] = ""

    def pick(self, values, f: int):
        return (f + 1) * (values.astype(np.float64) @ 10.0 ** np.arange(values.shape[1]))


class TrainsA(Places):
    """The same of A's entries."""

    trains: ClassVar[Literal["b", "a", "both"]] = "a"


class Either(Places):
    """The same of whichever was trained."""

    trains: ClassVar[Literal["b", "a", "both"]] = "both"


def choice(mix, *, f: int = 1, norms: bool = True, sampled: bool = False, rule=None) -> Choice:
    return Choice(rule or Places(), f, np.array(mix, float), norms, sampled, seed=5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 3])
def test_every_coordinate_is_picked_once(width: int, dtype: type):
    """In blocks of 4096; all updates, a selection in its own order, and mixtures."""
    values = (np.arange(3)[:, None] + np.arange(width) % 7).astype(dtype)
    tens = np.array([1, 10, 100])

    for mix in (np.eye(3), np.eye(3)[[2, 0]], [[1, 0.5, 0], [0, 0, 2], [0, 1, 0]], [[0, 2, 0]]):
        expected = 3 * (tens[: len(mix)] @ np.sort(np.array(mix) @ values, axis=0))
        np.testing.assert_allclose(choice(mix, f=2).picked(values), expected, rtol=1e-6)
    assert AT_ONCE == 4096


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_picked_from(count: int, bad: float):
    """Whoever sent one, and at whichever coordinate: it stands first or last, and a rule might not look there."""
    for place in range(count):
        values = np.arange(7.0 * count).reshape(count, 7)
        values[place, 4] = bad
        with pytest.raises(NotFinite, match="float64 values are NaN or infinite"):
            choice(np.eye(count)).picked(values)


def test_a_mixture_costs_a_multiplication_and_a_selection_does_not():
    """All of them in order need not even be copied one by one."""
    assert choice(np.eye(3)).selected() == slice(None)
    assert choice(np.eye(3)[[2, 0]]).selected().tolist() == [2, 0]
    assert choice(np.eye(3)[:2]).selected().tolist() == [0, 1]
    for mix in ([[0.5, 0.5]], [[2.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, -1.0]]):
        assert choice(mix).selected() is None


def test_a_choice_is_among_the_vectors_with_weight():
    """Their mixing rows, f and seed are the ballot's; each update's say is the mean of its column."""
    count = np.ones(3, np.int64)
    ballot = Ballot(
        Facts(count, count, 0 * count, f=2, seed=9), np.arange(9.0).reshape(3, 3), np.array([0.5, 0.0, -0.5])
    )

    made = Choice.of(Places(), ballot, norms=True, exact=False)

    assert made.mix.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert made.coefficients.tolist() == [3, 4, 5]
    assert (made.f, made.seed, made.norms, made.sampled) == (2, 9, True, True)
    assert not Choice.of(Places(), ballot, norms=False, exact=True).sampled


def clients(rng: np.random.Generator, shapes: Mapping[str, tuple[int, int]], count: int, trains: str) -> list[Update]:
    """Return updates of one start, of which each trained one factor."""
    start = {name: low_rank(rng, shape, 2, 3.0) for name, shape in shapes.items()}
    updates = []
    for _ in range(count):
        moved = {name: low_rank(rng, term.shape, 2) for name, term in start.items()}
        trained = {
            name: LowRank(moved[name].b, term.a, 3.0) if trains == "b" else LowRank(term.b, moved[name].a, 3.0)
            for name, term in start.items()
        }
        updates.append(Update(trained, start, 1))
    return updates


@pytest.mark.parametrize("rule", [Places(), TrainsA()])
def test_a_pass_yields_modules_norms_and_shapes(rule: Places):
    """Two modules in one basis each: Σ 10ⁱ·valueᵢ of ascending values, and ‖Δᵢ‖² where they are wanted."""
    shapes = {"m": (40, 6), "n": (5, 33)}
    updates = clients(np.random.default_rng(0), shapes, 3, rule.trains)
    for norms in (True, False):
        cohort = Cohort(updates, (), {})
        order = [updates[cohort.given(place)] for place in range(3)]

        found = {each.name: each for each in coordinates(cohort, ["m", "n"], choice(np.eye(3), norms=norms, rule=rule))}

        assert list(found) == ["m", "n"]
        for name, shape in shapes.items():
            moves = [update.innovation()[name].dense() for update in order]
            (term,) = found[name].terms
            start, side = order[0].start[name], rule.trains
            entries = np.sort([getattr(u.trained[name], side) - getattr(start, side) for u in order], axis=0)
            change = 2 * np.tensordot([1, 10, 100], entries, 1)
            expected = 3 * (change @ start.a if side == "b" else start.b @ change)
            np.testing.assert_allclose(term.dense(), expected, rtol=1e-5, atol=1e-3)
            squares = [np.sum(move**2) for move in moves] if norms else [0.0, 0.0, 0.0]
            np.testing.assert_allclose(found[name].squares, squares, rtol=1e-5)
            assert (found[name].shape, found[name].rank, found[name].error) == (shape, 2, 0.0)


@pytest.mark.parametrize("wide", [None, 0, 1, 2, 3])
def test_coordinates_are_in_the_widest_type_of_the_first_update(wide: int | None):
    """Float32 takes half the memory, and float64 keeps its digits."""
    rng = np.random.default_rng(8)
    term = low_rank(rng, (9, 6), 2)
    factors = [term.b + np.float32(1), term.a, term.b, term.a]
    if wide is not None:
        factors[wide] = factors[wide].astype(np.float64)

    made = Coordinates(Read(0, "m", LowRank(*factors[:2]), LowRank(*factors[2:])), "b", choice(np.eye(2)))

    assert made.dtype == made.public.change.dtype == (np.float32 if wide is None else np.float64)


def test_a_round_counts_in_the_scale_of_its_first_update():
    """Then no entry has to be multiplied: B − B₀ itself, to be read times 3; another scale's is brought to that."""
    b, a = np.arange(6.0).reshape(3, 2), np.ones((2, 4))

    made = Coordinates(Read(0, "m", LowRank(b + 2, a, 3.0), LowRank(b, a, 3.0)), "b", choice(np.eye(2)))
    other = made.change(Read(1, "m", LowRank(b + 1, a, 6.0), LowRank(b, a, 6.0)))

    assert (made.unit, made.public.unit) == (3.0, 3.0)
    assert np.unique(made.public.change).tolist() == np.unique(other).tolist() == [2.0]
    np.testing.assert_array_equal(made.public.low_rank(made.public.change).dense(), 3 * 2 * np.ones((3, 2)) @ a)


def test_the_factor_that_the_rule_says_is_the_one_that_was_trained():
    """Whoever trained the other one is refused; a rule that says neither takes what all of them trained."""
    rng = np.random.default_rng(7)
    for trains in ("b", "a"):
        updates = clients(rng, {"m": (9, 6)}, 3, trains)
        for rule in (Places(), TrainsA(), Either()):
            run = coordinates(Cohort(updates, (), {}), ["m"], choice(np.eye(3), rule=rule))
            if rule.trains in (trains, "both"):
                assert len(list(run)) == 1
            else:
                with pytest.raises(BadUpdate, match=f"m: {trains.upper()} was to stay as it was published"):
                    list(run)


def test_an_update_in_another_basis_is_refused_by_module():
    """One that trained the other factor, and one beside another public factor."""
    rng = np.random.default_rng(9)
    first, second = clients(rng, {"m": (9, 6)}, 2, "b")
    start, other = first.start["m"], low_rank(rng, (9, 6), 2, 3.0)
    parity = Update({"m": LowRank(start.b, other.a, 3.0)}, first.start, 1)
    basis = Update({"m": LowRank(second.trained["m"].b, other.a, 3.0)}, {"m": LowRank(start.b, other.a, 3.0)}, 1)

    for odd, says in ((parity, "m: A was to stay as it was"), (basis, "m: the public factors of two updates differ")):
        given = dict(enumerate([first, second, odd])).values()
        with pytest.raises(BadUpdate, match=says):
            list(coordinates(Cohort(given, (), {}), ["m"], choice(np.eye(3))))


def test_a_module_larger_than_memory_is_gathered_span_by_span():
    """12 × 2.2 million float32 values do not fit in MOST_BYTES: two spans, and each norm counted once."""

    def trained(client: int) -> Update:
        rows = np.arange(1_100_000, dtype=np.float32)[:, None] % 1000
        b = np.hstack([rows + client, rows - 2 * client])
        return Update({"m": LowRank(b, np.ones((2, 1), np.float32))}, {}, 1, key=bytes([client]))

    cohort = Cohort(StoredUpdates(12, trained), (), {})
    order = [cohort.given(place) for place in range(12)]

    (found,) = coordinates(cohort, ["m"], choice(np.eye(12)))

    rows = np.arange(1_100_000.0) % 1000
    powers = sum(10.0**place for place in range(12))
    upwards = sum(10.0**place * place for place in range(12))
    downwards = sum(10.0**place * (11 - place) for place in range(12))
    np.testing.assert_allclose(found.terms[0].b[:, 0], 2 * (powers * rows + upwards), rtol=1e-12)
    np.testing.assert_allclose(found.terms[0].b[:, 1], 2 * (powers * rows - 2 * downwards), rtol=1e-9, atol=1.0)
    expected = [np.sum((2 * rows - client) ** 2) for client in order]
    np.testing.assert_allclose(found.squares, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", ["b", "a"])
def test_a_norm_is_estimated_from_a_sixteenth_of_the_rows(factor: str):
    """Rounded up, without bias, from rows that the seed chooses; exact where all are alike."""
    rng = np.random.default_rng(1)
    length, rows = 35, 3
    public, change = rng.normal(size=(2, 6)), np.ones((length, 1)) * rng.normal(size=(1, 2))
    term = LowRank(change, public) if factor == "b" else LowRank(public.T, change.T)
    none = LowRank(np.zeros((term.shape[0], 0)), np.zeros((0, term.shape[1])))
    start = none if factor == "b" else LowRank(term.b, np.zeros_like(term.a))
    made = choice(np.eye(2), sampled=True)

    module = Coordinates(Read(0, "m", term, start), factor, made)
    whole = Coordinates(Read(0, "m", term, start), factor, choice(np.eye(2)))

    part = module.change(Read(0, "m", term, start))
    assert module.square(part) == pytest.approx(term.norm() ** 2, rel=1e-12)
    spread = (rng.normal(size=(length, 2)) * 1.0) if factor == "b" else rng.normal(size=(2, length))
    dense = spread @ public if factor == "b" else public.T @ spread
    assert whole.square(spread) == pytest.approx(np.sum(dense**2), rel=1e-12)
    along = dense if factor == "b" else dense.T
    chosen = np.sort(np.random.Generator(np.random.PCG64(5)).permutation(length)[:rows])
    assert module.square(spread) == pytest.approx(np.sum(along[chosen] ** 2) * length / rows, rel=1e-12)
    assert SAMPLED == 16


def test_rows_lie_an_odd_number_of_lines_apart():
    """By hand: 16 float32 fill a line of 64 bytes, 17 take two, and so three; where a span begins does not count."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)

    assert [stride_of(Span("m", 100, 100 + width), single) for width in (1, 16, 17, 32, 33, 48, 49)] == [
        64, 64, 192, 192, 192, 192, 320,
    ]  # fmt: skip
    assert stride_of(Span("m", 3, 12), double) == 192


def test_spans_lie_side_by_side():
    """Every value has a place of its own, in the type of its module, within what was taken."""
    dtypes = {Span("m", 5, 10): np.dtype(np.float32), Span("n", 0, 20): np.dtype(np.float64)}
    taken = np.zeros(3 * (64 + 192), np.uint8)

    values = laid(taken, 3, dtypes)

    assert {span: (each.shape, each.dtype) for span, each in values.items()} == {
        Span("m", 5, 10): ((3, 5), np.float32),
        Span("n", 0, 20): ((3, 20), np.float64),
    }
    for number, each in enumerate(values.values()):
        each[:] = np.arange(each.size).reshape(each.shape) + 100 * number
    for number, each in enumerate(values.values()):
        np.testing.assert_array_equal(each, np.arange(each.size).reshape(each.shape) + 100 * number)
        assert np.shares_memory(each, taken)


def test_a_pass_gives_its_room_back():
    """For the next module: three updates of 80 float32 values, a row each of 5 lines."""
    made = choice(np.eye(3))

    list(coordinates(Cohort(clients(np.random.default_rng(2), {"m": (40, 6)}, 3, "b"), (), {}), ["m"], made))

    assert len(made.room.take(1)) == 3 * 320


def test_changes_that_are_not_finite_are_refused_without_a_warning():
    """An infinite value is named; a difference of two finite ones that overflows float32 is not one update's fault."""
    rng = np.random.default_rng(3)
    updates = clients(rng, {"m": (4, 6)}, 3, "b")
    a = updates[0].start["m"].a
    for begun, trained, says in (
        (np.inf, np.inf, r"update 1: m trained lora_B\[0, 0\] is NaN or infinite"),
        (-3e38, 3e38, "m: float32 values are NaN or infinite, or overflow"),
    ):
        ends = [LowRank(np.full((4, 2), value, np.float32), a, 3.0) for value in (trained, begun)]
        given = dict(enumerate([updates[0], Update({"m": ends[0]}, {"m": ends[1]}, 1), updates[2]])).values()
        with pytest.raises(BadUpdate, match=says):
            list(coordinates(Cohort(given, (), {}), ["m"], choice(np.eye(3))))


@dataclass(frozen=True)
class Long:
    """Stands for the coordinates of one module, of which only their number and type are looked at."""

    result: range
    dtype: np.dtype


@pytest.mark.parametrize("count", [1, 1000])
def test_groups_are_as_large_as_memory_allows(count: int):
    """Every coordinate once and in order; a group that is not the last has no room for one more."""
    room = MOST_BYTES // count
    sizes = {
        "a": (room // 8, np.float64),
        "b": (room // 4 - 5, np.float32),
        "c": (3, np.float64),
        "d": (room, np.float64),
    }
    found = {name: Long(range(size), np.dtype(dtype)) for name, (size, dtype) in sizes.items()}

    groups = list(grouped(found, count))

    for name, module in found.items():
        spans = [span for group in groups for span in group if span.name == name]
        assert [span.begin for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == len(module.result)
    used = [sum((s.end - s.begin) * count * found[s.name].dtype.itemsize for s in group) for group in groups]
    assert max(used) <= MOST_BYTES == 80 * 2**20
    assert min(used[:-1]) > MOST_BYTES - 16 * count
    assert groups[0] == [Span("a", 0, room // 8)]


def test_one_coordinate_of_too_many_updates_is_a_group():
    """More than memory allows, and still it goes on."""
    found = {"a": Long(range(3), np.dtype(np.float64))}

    assert list(grouped(found, MOST_BYTES)) == [[Span("a", n, n + 1)] for n in range(3)]
    assert list(grouped({}, 5)) == []
