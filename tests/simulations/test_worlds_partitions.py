"""Who holds what: every piece goes to one client, nobody is left without, and skew is as much as alpha says."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.simulations.worlds.chance import apportioned, dealt, generator
from potluck.simulations.worlds.corpora import Piece
from potluck.simulations.worlds.errors import Impossible, TooLittleText
from potluck.simulations.worlds.partitions import PARTITIONS, Holding, iid, label_skew, natural, quantity_skew
from potluck.simulations.worlds.tables import Partition

SHUFFLED = sorted(set(PARTITIONS) - {"natural"})


def made_up(count: int, labels: int = 4) -> list[Piece]:
    """Return pieces of which label i has about 1 / (i + 1) as many as label 0; each owner has ten."""
    prior = 1 / np.arange(1, labels + 1)
    drawn = np.random.default_rng(0).choice(labels, count, p=prior / prior.sum())
    return [Piece({"text": f"piece {i}"}, owner=f"owner {i // 10}", label=f"label {k}") for i, k in enumerate(drawn)]


def cut(kind: str, pieces: list[Piece], clients: int, seed: int = 0, **table: float) -> list[Holding]:
    table_read = Partition.parse(json.dumps({"kind": kind, **table}))
    return PARTITIONS[kind](pieces, clients, table_read, generator(seed, "partition"))


def distance(holding: Holding, pieces: list[Piece]) -> float:
    """Return the total variation between a client's labels and those of all."""
    mine, everyone = Counter(p.label for p in holding.pieces), Counter(p.label for p in pieces)
    return sum(abs(mine[k] / mine.total() - n / everyone.total()) for k, n in everyone.items()) / 2


@pytest.mark.parametrize("kind", SHUFFLED)
@given(
    clients=st.integers(1, 40),
    count=st.integers(80, 300),
    alpha=st.sampled_from([0.001, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 5),
)
def test_every_piece_goes_to_one_client_and_nobody_has_fewer_than_the_minimum(kind, clients, count, alpha, seed):
    pieces = made_up(count)
    held = cut(kind, pieces, clients, seed, alpha=alpha)

    assert len(held) == clients
    assert len({holding.name for holding in held}) == clients
    assert sorted(p.row["text"] for h in held for p in h.pieces) == sorted(p.row["text"] for p in pieces)
    assert min(len(holding.pieces) for holding in held) >= 2
    assert held == cut(kind, pieces, clients, seed, alpha=alpha)


@pytest.mark.parametrize("kind", sorted(PARTITIONS))
def test_another_seed_is_another_partition(kind: str):
    pieces = made_up(400)

    assert cut(kind, pieces, 8, seed=0) != cut(kind, pieces, 8, seed=1)


@pytest.mark.parametrize("cut_", [iid, label_skew])
def test_sizes_are_equal_where_only_the_labels_are_skewed(cut_):
    sizes = [len(h.pieces) for h in cut_(made_up(1_003), 10, Partition(), generator(0))]

    assert sorted(sizes) == [100] * 7 + [101] * 3


def test_natural_clients_hold_all_of_their_own_and_nothing_else():
    pieces = made_up(200)
    held = natural(pieces, 12, Partition(), generator(0))

    assert all({p.owner for p in h.pieces} == {h.name} and len(h.pieces) == 10 for h in held)


def test_few_natural_clients_are_the_first_of_many():
    """So that a run of 5 and a run of 50 have people in common to compare."""
    pieces = made_up(500)

    assert cut("natural", pieces, 5) == cut("natural", pieces, 50)[:5]


@pytest.mark.parametrize("alpha", [100.0, 10.0, 1.0, 0.05])
def test_labels_are_as_uneven_as_alpha_says(alpha: float):
    """As far from all as 100 samples of a draw from Dir(alpha · p) are; a little less: the last take what is left."""
    pieces, rng = made_up(4_000), np.random.default_rng(1)
    prior = np.array(list(Counter(p.label for p in pieces).values())) / len(pieces)
    drawn = [rng.multinomial(100, rng.dirichlet(alpha * prior)) / 100 for _ in range(2_000)]
    expected = np.mean([np.abs(mix - prior).sum() / 2 for mix in drawn])

    held = cut("label_skew", pieces, 40, alpha=alpha)
    assert 0.75 * expected < np.mean([distance(h, pieces) for h in held]) < 1.15 * expected


def test_iid_clients_have_the_labels_of_all():
    pieces = made_up(4_000)

    assert np.mean([distance(h, pieces) for h in cut("iid", pieces, 40)]) < 0.1


def test_amounts_are_as_uneven_as_alpha_says():
    """Shares of Dir(alpha) have the variance (n − 1) / (n² (n·alpha + 1)): their scatter is known."""
    n, total = 200, 20_000
    for alpha in (0.2, 5.0):
        sizes = np.array([len(h.pieces) for h in cut("quantity_skew", made_up(total), n, alpha=alpha)])
        expected = np.sqrt((n - 1) / (n**2 * (n * alpha + 1))) * (total - 2 * n)
        assert sizes.std() == pytest.approx(expected, rel=0.2)
        assert sizes.min() >= 2


def test_equal_samples_do_not_fall_to_two_clients():
    pieces = made_up(50) * 3

    held = iid(pieces, 5, Partition(), generator(0))
    assert Counter(p.row["text"] for h in held for p in h.pieces).most_common(1)[0][1] == 1


@pytest.mark.parametrize("kind", SHUFFLED)
def test_more_clients_than_the_text_can_fill_are_refused_with_the_most_that_it_can(kind: str):
    with pytest.raises(TooLittleText, match="51 clients with 2 samples each, and there are 100") as caught:
        cut(kind, made_up(100), 51)

    assert "at most 50 clients" in caught.value.__notes__[0]
    assert len(cut(kind, made_up(100), 50)) == 50


def test_more_natural_clients_than_owners_are_refused_with_their_number():
    pieces = [*made_up(100), Piece({"text": "all that she says"}, owner="a page")]
    with pytest.raises(TooLittleText, match="11 clients, and 10 of 11 owners have 2 samples") as caught:
        cut("natural", pieces, 11)

    assert "at most 10 clients" in caught.value.__notes__[0]


def test_nobody_owns_a_sample_twice_to_reach_the_minimum():
    pieces = [*made_up(20), *[Piece({"text": "Ay, my lord."}, owner="a page")] * 2]
    with pytest.raises(TooLittleText, match="2 of 3 owners"):
        cut("natural", pieces, 3)


def test_text_without_owners_or_labels_is_refused_where_they_are_needed():
    plain = [Piece({"text": f"piece {i}"}) for i in range(100)]
    with pytest.raises(Impossible, match="100 of 100 samples have no owner"):
        cut("natural", plain, 5)
    with pytest.raises(Impossible, match="1 label"):
        label_skew(plain, 5, Partition(), generator(0))
    assert len(quantity_skew(plain, 5, Partition(), generator(0))) == 5


@given(
    total=st.integers(0, 5_000), shares=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=9), seed=st.integers(0, 9)
)
def test_whole_numbers_add_up_and_are_within_one_of_their_shares(total, shares, seed):
    counts = apportioned(total, shares)

    assert sum(counts) == total
    assert all(abs(n - total * share / sum(shares)) < 1 + 1e-6 for n, share in zip(counts, shares, strict=True))
    assert Counter(dealt(total, range(len(shares)), shares, generator(seed))) == {
        i: n for i, n in enumerate(counts) if n
    }


def test_a_share_that_binary_cannot_write_is_still_whole():
    """0.29 · 100 is a hair below 29."""
    assert apportioned(100, [0.29, 0.71]) == [29, 71]
