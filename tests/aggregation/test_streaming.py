"""Rounds that do not fit in memory: the same result however updates are read, and no more held than one module."""

import tracemalloc
from functools import partial

import numpy as np
import pytest

from adapters import low_rank, trained_from
from potluck.aggregation import (
    BadUpdate,
    LowRank,
    Parts,
    Pipeline,
    StoredUpdates,
    Update,
    aggregate,
    encode,
    to_tensors,
)

SHAPES = {f"m{n}": (40 + n, 30) for n in range(6)}
START_RNG = np.random.default_rng(77)
START = {name: low_rank(START_RNG, shape, 4, 2.0) for name, shape in SHAPES.items()}


def trained(client: int, name: str, *, only_b: bool = False) -> LowRank:
    """Return what one client trained of one module, made anew each time as a file would be read."""
    rng = np.random.default_rng([client, int(name[1:])])
    term = trained_from(rng, START[name])
    return LowRank(term.b, START[name].a, term.scale) if only_b else term


def opened(client: int, *, only_b: bool = False) -> Update:
    """Return one client's update, read by module."""
    return Update(
        Parts(tuple(SHAPES), partial(trained, client, only_b=only_b)), START, 1 + client % 5, key=bytes([client])
    )


def whole(client: int, *, only_b: bool = False) -> Update:
    """Return one client's update, in memory."""
    update = opened(client, only_b=only_b)
    return Update(dict(update.trained), START, update.examples, key=update.key)


class Restarting:
    """An object over files: read from the start whenever asked, and no Sequence."""

    def __init__(self, count: int, *, only_b: bool = False) -> None:
        self.count = count
        self.only_b = only_b
        self.reads = 0

    def __iter__(self):
        self.reads += 1
        return (whole(client, only_b=self.only_b) for client in range(self.count))


PIPELINES = {
    "mean": Pipeline(rank=8),
    "multikrum": Pipeline(weights=("multikrum",), f=2, rank=8),
    "default": Pipeline(weights=("examples", "norm_bound", "nnm", "geomedian"), f=2, rank=8),
    "florist": Pipeline(rule="florist", rank=8),
    "nesterov": Pipeline(outer="nesterov", rank=8),
    "median": Pipeline(rule="median", weights=(), rank=8),
    "trimmed mean of neighbours": Pipeline(rule="trimmed_mean", weights=("nnm",), f=2, rank=8),
    "bulyan": Pipeline(rule="bulyan", weights=(), f=2, rank=8),
    "ffa": Pipeline(rule="ffa", rank=8),
}
ONE_FACTOR = {"median", "trimmed mean of neighbours", "bulyan", "ffa"}


@pytest.mark.parametrize("exact_up_to", [64, 3], ids=["exact", "sketched"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_round_is_the_same_however_it_is_read(name: str, exact_up_to: int):
    """In memory, from files by module, and from an object that restarts: equal bits, or equal up to rounding."""
    pipeline = Pipeline(
        **{field: getattr(PIPELINES[name], field) for field in ("rule", "weights", "outer", "rank", "f", "settings")},
        exact_up_to=exact_up_to,
    )
    only_b = name in ONE_FACTOR

    listed = aggregate([whole(c, only_b=only_b) for c in range(13)], {}, pipeline)
    stored = aggregate(StoredUpdates(13, partial(opened, only_b=only_b)), {}, pipeline)

    assert encode(to_tensors(stored.master), "fp64") == encode(to_tensors(listed.master), "fp64")
    assert stored.report == listed.report
    restarting = Restarting(13, only_b=only_b)
    if exact_up_to == 64:
        again = aggregate(restarting, {}, pipeline)
        for module, term in listed.master.items():
            rounding = 1e-6 if "neighbours" in name else 1e-10  # float32 entries are mixed in float32
            np.testing.assert_allclose(again.master[module].dense(), term.dense(), rtol=0, atol=rounding)
    else:  # without digests the maps are drawn from another seed
        again = aggregate(restarting, {}, pipeline)
        assert again.report.norms == pytest.approx(listed.report.norms, rel=0.5)


def test_an_iterator_is_enough_for_one_pass_and_refused_for_two():
    pipeline = Pipeline(weights=("examples",), rank=8)

    once = aggregate((whole(client) for client in range(9)), {}, pipeline)

    expected = aggregate([whole(client) for client in range(9)], {}, pipeline)
    for module, term in expected.master.items():
        np.testing.assert_allclose(once.master[module].dense(), term.dense(), rtol=0, atol=1e-12)
    with pytest.raises(Exception, match="only once") as caught:
        aggregate((whole(client) for client in range(9)), {}, Pipeline(weights=("krum",), f=1))
    assert "StoredUpdates" in caught.value.__notes__[0]


@pytest.mark.parametrize("name", PIPELINES)
def test_memory_does_not_grow_with_the_number_of_updates(name: str):
    """Forty updates more cost what weights and sketches need, (n, 64, 64) numbers: not a copy of any update."""
    only_b = name in ONE_FACTOR
    options = {field: getattr(PIPELINES[name], field) for field in ("rule", "weights", "outer", "rank", "f")}
    peaks = []
    for count in (80, 120):
        updates = StoredUpdates(count, partial(opened, only_b=only_b))
        tracemalloc.start()
        aggregate(updates, {}, Pipeline(**options))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    one = sum(4 * (d + k) * 4 for d, k in SHAPES.values())
    per_update = (peaks[1] - peaks[0]) / 40
    assert per_update < 3 * 64 * 64 * 8 + 2 * one / len(SHAPES) * 4


def test_a_module_is_read_twice_at_most():
    """Once for the inner products, once for the sum; selection leaves the others unread the second time."""
    reads = []

    def counted(client: int) -> Update:
        def read(name: str) -> LowRank:
            reads.append((client, name))
            return trained(client, name)

        return Update(Parts(tuple(SHAPES), read), START, 1, key=bytes([client]))

    result = aggregate(StoredUpdates(11, counted), {}, Pipeline(weights=("krum",), f=2, rank=8))

    assert len(reads) == 2 * 11 * len(SHAPES)
    assert sorted(result.report.weights) == [0] * 10 + [1]


def test_what_is_not_finite_is_named_in_a_sketched_round_too():
    """The sketch turns NaN; then it is looked for."""

    def spoiled(client: int) -> Update:
        def read(name: str) -> LowRank:
            term = trained(client, name)
            if (client, name) == (5, "m3"):
                term.b[2, 1] = np.inf
            return term

        return Update(Parts(tuple(SHAPES), read), START, 1, key=bytes([client]))

    with pytest.raises(BadUpdate, match=r"update 5: m3 trained lora_B\[2, 1\] is NaN or infinite"):
        aggregate(StoredUpdates(9, spoiled), {}, Pipeline(weights=("norm_bound",), exact_up_to=3))


def test_parts_are_a_mapping_that_reads_late():
    reads = []
    parts = Parts(("a", "b"), lambda name: reads.append(name) or low_rank(np.random.default_rng(0), (2, 2), 1))

    assert list(parts) == ["a", "b"]
    assert len(parts) == 2
    assert "a" in parts
    assert "c" not in parts
    assert not reads
    assert parts["b"].rank == 1
    assert reads == ["b"]
    with pytest.raises(KeyError):
        parts["c"]


def test_stored_updates_are_a_sequence():
    stored = StoredUpdates(5, opened)

    assert len(stored) == 5
    assert stored[2].key == bytes([2])
    assert [update.key for update in stored[1:3]] == [bytes([1]), bytes([2])]
    for place in (5, -1):
        with pytest.raises(IndexError):
            stored[place]
