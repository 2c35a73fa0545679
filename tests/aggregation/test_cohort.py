"""A round's updates as they are read: in an order that is nobody's choice, checked once, in groups that fit."""

import hashlib

import numpy as np
import pytest

from adapters import low_rank
from potluck.aggregation import BadUpdate, LowRank, StoredUpdates, Update
from potluck.aggregation.cohort import MOST_NUMBERS, Census, Cohort, total_of
from potluck.aggregation.weights.ballot import Facts

SHAPES = {"p": (4, 3), "q": (2, 5)}


def update(seed: int, *, examples: int = 1, rank: int = 1) -> Update:
    """Return an update of two modules that states *seed* in everything it states."""
    rng = np.random.default_rng(seed)
    trained = {name: low_rank(rng, shape, rank + seed % 2) for name, shape in SHAPES.items()}
    return Update(trained, {}, examples, steps=10 + seed, staleness=seed, key=b"%d" % seed)


class Restarting:
    """An object that can be read again and again, and no Sequence."""

    def __init__(self, updates):
        self.updates = updates

    def __iter__(self):
        return iter(self.updates)


UPDATES = [update(seed) for seed in range(5)]
IN_ORDER = sorted(range(5), key=lambda place: UPDATES[place].digest())


def read(cohort: Cohort, *names: str) -> list[tuple[int, str]]:
    return [(part.place, part.name) for part in cohort.parts(names)]


def test_a_sequence_is_read_by_digest_and_seeds_a_round():
    """The seed is the first eight bytes, big end first, of the SHA-256 of all digests in order."""
    cohort = Cohort(UPDATES, (lambda u: u.staleness + 0.5,), {})

    census = cohort.census(f=3)

    assert sorted(IN_ORDER) != IN_ORDER
    assert [cohort.given(place) for place in range(5)] == IN_ORDER
    assert census.facts.staleness.tolist() == IN_ORDER
    assert census.facts.steps.tolist() == [10 + given for given in IN_ORDER]
    assert census.facts.examples.tolist() == [1] * 5
    assert census.raw.tolist() == [given + 0.5 for given in IN_ORDER]
    assert cohort.as_given(np.array(IN_ORDER, float)) == (0, 1, 2, 3, 4)
    whole = hashlib.sha256(b"".join(UPDATES[given].digest() for given in IN_ORDER)).digest()
    assert cohort.seed == census.facts.seed == int.from_bytes(whole[:8], "big")
    assert (census.facts.f, census.names, census.sizes) == (3, ("p", "q"), {})
    assert Cohort(UPDATES[::-1], (), {}).seed == cohort.seed
    assert [cohort.where(place) for place in (4, 5)] == [f"update {IN_ORDER[4]}", "the reference"]
    assert cohort.census().facts.f == 0


def test_another_iterable_is_read_as_it_comes():
    """Without a seed, whole, with the numbers in the largest part of each module; an iterator only once."""
    cohort = Cohort(Restarting(UPDATES), (), {})

    census = cohort.census()

    assert (cohort.by_module, cohort.once, cohort.seed) == (False, False, 0)
    assert census.facts.staleness.tolist() == [0, 1, 2, 3, 4]
    assert census.sizes == {"p": 2 * (4 + 3), "q": 2 * (2 + 5)}
    assert [cohort.given(place) for place in range(5)] == [0, 1, 2, 3, 4]
    assert cohort.as_given(np.arange(5.0)) == (0, 1, 2, 3, 4)
    assert read(cohort, "q", "p") == [(place, name) for place in range(5) for name in "qp"]
    assert [place for place, _ in cohort.updates()] == [0, 1, 2, 3, 4]
    once = Cohort(iter(UPDATES), (), {})
    assert once.once
    assert len(list(once.updates())) == 5
    with pytest.raises(BadUpdate, match="only once"):
        once.census()


@pytest.mark.parametrize("kind", [list, tuple, lambda updates: StoredUpdates(5, updates.__getitem__)])
def test_what_is_stored_is_read_module_by_module(kind):
    cohort = Cohort(kind(UPDATES), (), {})

    assert (cohort.by_module, cohort.once) == (True, False)
    assert read(cohort, "q", "p") == [(place, name) for name in "qp" for place in range(5)]
    assert [u.staleness for _, u in cohort.updates()] == IN_ORDER
    parts = list(cohort.parts(["p"]))
    assert all(part.trained is UPDATES[given].trained["p"] for part, given in zip(parts, IN_ORDER, strict=True))
    assert {part.start.rank for part in parts} == {0}


def test_a_stored_update_is_opened_once():
    """Its module files are read often; the message around them is not."""
    opened = []
    cohort = Cohort(StoredUpdates(5, lambda place: opened.append(place) or UPDATES[place]), (), {})

    cohort.census()
    read(cohort, "p", "q")

    assert opened == [0, 1, 2, 3, 4]


def census_of(**sizes: int) -> Census:
    nothing = np.zeros(0, np.int64)
    return Census(Facts(nothing, nothing, nothing), np.zeros(0), tuple(sizes), sizes)


def test_whole_updates_are_read_in_as_few_passes_as_memory_allows():
    """2²⁴ numbers at a time exactly, and not one more; a module by itself may be larger; stored ones one by one."""
    whole, stored = Cohort(Restarting([]), (), {}), Cohort(UPDATES, (), {})
    half = MOST_NUMBERS // 4

    assert list(whole.blocks(census_of(a=half, b=half, c=1), held=2)) == [["a", "b"], ["c"]]
    assert list(whole.blocks(census_of(a=half, b=half + 1, c=1), held=2)) == [["a"], ["b", "c"]]
    assert list(whole.blocks(census_of(a=9 * half, b=1, c=half), held=2)) == [["a"], ["b", "c"]]
    assert list(whole.blocks(census_of(a=half, b=half, c=half), held=2)) == [["a", "b"], ["c"]]
    assert list(whole.blocks(census_of(a=9 * half, b=9 * half))) == [["a", "b"]]
    assert list(stored.blocks(census_of(a=1, b=1), held=2)) == [["a"], ["b"]]
    assert list(whole.blocks(census_of(a=9 * half, b=half, c=half), held=2)) == [["a"], ["b", "c"]]
    missing = census_of(a=half, b=half)._replace(sizes={})
    assert list(whole.blocks(missing, held=2)) == [["a", "b"]]
    assert MOST_NUMBERS == 2**24


def spoiled(term: LowRank) -> LowRank:
    b = term.b.copy()
    b[1, 0] = np.nan
    return LowRank(b, term.a)


@pytest.mark.parametrize("role", ["trained", "start"])
def test_a_value_that_is_not_finite_is_named_where_it_was_given(role: str):
    """Also in a start that one update has to itself, after others whose start was fine; only once if asked to."""
    fine = UPDATES[0].trained
    bad = {**fine, "q": spoiled(fine["q"])}
    odd = Update(bad, fine, 1) if role == "trained" else Update(fine, bad, 1)
    updates = [Update(fine, fine, 1), Update(fine, fine, 2), odd, Update(fine, fine, 3)]
    cohort = Cohort(Restarting(updates), (), {})

    assert len(list(cohort.parts(["p", "q"], values=False))) == 8
    for given in (updates, Restarting(updates)):
        with pytest.raises(BadUpdate, match=rf"update 2: q {role} lora_B\[1, 0\] is NaN or infinite"):
            list(Cohort(given, (), {}).parts(["p", "q"]))
        with pytest.raises(BadUpdate, match=rf"update 2: q {role} lora_B\[1, 0\] is NaN or infinite"):
            Cohort(given, (), {}).find_what_is_not_finite(["p", "q"])
    assert len(list(Cohort(updates, (), {}).parts(["p", "q"], values=False))) == 8
    trusting = Cohort(updates, (), {})
    trusting.finite = True
    assert len(list(trusting.parts(["p", "q"]))) == 8


def test_updates_that_are_not_like_the_others_are_refused():
    """Modules are the first update's and the master's together; a shape is the master's or the first one's."""
    lacking = Update({"p": UPDATES[0].trained["p"]}, {}, 1)
    transposed = Update({n: LowRank(t.a.T, t.b.T) for n, t in UPDATES[0].trained.items()}, {}, 1)
    master = {"p": LowRank(np.ones((4, 1)), np.ones((1, 3)))}

    for updates, known, says in (
        ([UPDATES[0], lacking], {}, r"update 1 has 1 modules where 2 are expected; missing \['q'\], unexpected \[\]"),
        ([lacking, UPDATES[0]], {}, r"update 1 has 2 modules where 1 are expected; missing \[\], unexpected \['q'\]"),
        ([lacking], {**master, "r": master["p"]}, r"update 0 has 1 modules where 2 .*missing \['r'\]"),
        ([Update({}, {}, 1)], {}, "update 0 has 0 modules where 0"),
        ([UPDATES[0], transposed], {}, r"update 1: p is \(3, 4\) where the others are \(4, 3\)"),
        ([transposed], master, r"update 0: p is \(3, 4\) where the others are \(4, 3\)"),
    ):
        cohort = Cohort(Restarting(updates), (), known)
        with pytest.raises(BadUpdate, match=says):
            list(cohort.parts(sorted(updates[0].trained)))
    with pytest.raises(BadUpdate, match="update 1 has 1 modules"):
        list(Cohort(Restarting([UPDATES[0], lacking]), (), {}).updates())


def test_weights_are_products_of_factors_and_have_a_total():
    """Without factors all count the same; a factor must be finite and not negative, and somebody must count."""
    product = Cohort(UPDATES, (lambda _: 2.0, lambda u: u.staleness), {})

    assert [product.weigh(0, u) for u in UPDATES] == [0, 2, 4, 6, 8]
    assert Cohort(UPDATES, (), {}).weigh(0, UPDATES[3]) == 1.0
    for weight in (-0.5, float("inf"), float("nan")):
        with pytest.raises(BadUpdate, match=f"update {IN_ORDER[2]} has the weight {weight}"):
            Cohort(UPDATES, (lambda _, weight=weight: weight,), {}).weigh(2, UPDATES[0])
        with pytest.raises(BadUpdate, match=f"update {IN_ORDER[0]} has the weight {weight}"):
            Cohort(UPDATES, (lambda _, weight=weight: weight,), {}).census()
    assert total_of([0.1] * 10) == 1.0
    for raw, says in (([], "no updates"), ([0.0, 0.0], r"2 updates weigh 0\.0"), ([1e308, 1e308], "weigh inf")):
        with pytest.raises(BadUpdate, match=says):
            total_of(raw)
