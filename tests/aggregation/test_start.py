"""What is published, what a client starts from, and what fifty rounds of that do to a master."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import SHAPES, low_rank, trained_from
from potluck.aggregation import (
    INITS,
    BadSetting,
    BadTensor,
    BadUpdate,
    Limits,
    LowRank,
    Pipeline,
    UnknownName,
    Update,
    aggregate,
    broadcast,
    compress,
    decode,
    deltas,
    encode,
    from_deltas,
    from_tensors,
    scaling,
    start,
    to_tensors,
)
from potluck.aggregation.tensors import moves_at

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "aggregation.json").read_text("utf-8"))
COLLAPSE = VECTORS["t4_collapse_of_averaged_truncations"]
INIT = pytest.mark.parametrize("init", sorted(INITS))
SIZE = (64, 48)


def master_of_rank_32() -> LowRank:
    """T4's G: rank 32, σ from 2 down to 1."""
    rng = np.random.default_rng(4)
    u, v = (np.linalg.qr(rng.normal(size=(side, 32)))[0] for side in SIZE)
    return LowRank(u * np.linspace(2, 1, 32), v.T)


def bits(adapter) -> bytes:
    return encode(to_tensors(adapter), "fp32")


@pytest.mark.parametrize(
    ("alpha", "rank", "plain", "stabilised"), [(16, 4, 4.0, 8.0), (16, 16, 1.0, 4.0), (0.5, 1, 0.5, 0.5)]
)
def test_the_scale_is_alpha_over_the_rank_or_its_root(alpha: float, rank: int, plain: float, stabilised: float):
    """T3: s = 4 and 1 at alpha 16, and 8 and 4 for rank-stabilised LoRA."""
    assert scaling(alpha, rank) == plain
    assert scaling(alpha, rank, rslora=True) == stabilised


@INIT
def test_fifty_rounds_without_training_change_nothing(init: str):
    """T4: clients of rank 4, 8, 16 and 32 who learned nothing must not wear the master out."""
    master, state = {"q": master_of_rank_32()}, None
    before = master["q"].norm()

    for version in range(50):
        published = broadcast(master, init)
        starts = [
            start(published, {"q": SIZE}, init=init, rank=r, scale=scaling(16, r), seed=version)
            for r in COLLAPSE["ranks"]
        ]
        updates = [Update(one.trainable, one.trainable, 1) for one in starts]
        master, state, _ = aggregate(updates, master, Pipeline(), state)

    assert abs(master["q"].norm() / before - 1) <= 1e-9


def test_averaging_truncated_products_wears_the_master_out():
    """T4's contrast, after FlexLoRA: what a small client was never sent counts as zero, and the rank collapses."""
    master = master_of_rank_32()
    whole = master.norm()

    for version in range(21):
        if str(version) in COLLAPSE["top_4_energy"]:
            share = (compress([master], rank=4).low_rank.norm() / master.norm()) ** 2
            assert share == pytest.approx(COLLAPSE["top_4_energy"][str(version)], abs=5e-4)
        if str(version) in COLLAPSE["norm"]:
            assert master.norm() / whole == pytest.approx(COLLAPSE["norm"][str(version)], abs=5e-4)
        master, _ = compress([compress([master], rank=r).low_rank for r in COLLAPSE["ranks"]], [0.25] * 4)


@INIT
@given(rank=st.integers(1, 12), published_rank=st.integers(0, 9), scale=st.sampled_from([0.5, 1.0, 2.0, 3.7, 16.0]))
def test_trainable_and_tail_are_what_was_published(init: str, rank: int, published_rank: int, scale: float):
    """The model starts as base + master, whatever the client's rank: no noise from the start."""
    published = broadcast({"q": low_rank(np.random.default_rng(rank), (12, 9), published_rank)}, init)

    trainable, tail = start(published, {"q": (12, 9)}, init=init, rank=rank, scale=scale, seed=0)

    both = trainable["q"].dense() + tail["q"].dense()
    assert (trainable["q"].rank, trainable["q"].scale, tail["q"].scale) == (rank, scale, 1.0)
    assert trainable["q"].b.dtype == trainable["q"].a.dtype == tail["q"].b.dtype == tail["q"].a.dtype == np.float32
    np.testing.assert_allclose(both, published["q"].dense(), atol=1e-6 * (1 + published["q"].norm()))


@pytest.mark.parametrize(
    ("init", "scale", "kept"),
    [("continue", 4.0, 4), ("orthonormal", 2.0, 4), ("keep", 2.0, 4), ("half", 4.0, 2), ("fresh", 3.7, 0)],
)
def test_a_scale_that_is_a_power_of_two_loses_no_bit(init: str, scale: float, kept: int):
    """Division by it is exact, so trainable + tail is the published product to the last bit of a column."""
    published = broadcast({"q": low_rank(np.random.default_rng(1), (12, 9), 6)}, init)["q"]

    trainable, tail = start({"q": published}, {"q": (12, 9)}, init=init, rank=4, scale=scale, seed=0)

    begun = trainable["q"]
    for column in range(kept):
        whole = np.outer(published.b[:, column].astype(float), published.a[column].astype(float))
        assert np.array_equal(
            begun.scale * np.outer(begun.b[:, column].astype(float), begun.a[column].astype(float)), whole
        )
    assert not begun.b[:, kept:].any()
    assert np.array_equal(tail["q"].b, published.b[:, kept:])
    assert np.array_equal(tail["q"].a, published.a[kept:])


def test_continue_and_orthonormal_train_the_leading_directions():
    """T = the best rank r of the master; the rest is frozen."""
    master = low_rank(np.random.default_rng(2), (12, 9), 7)
    best = compress([master], rank=3).low_rank.dense()

    for init in ("continue", "orthonormal"):
        one = start(broadcast({"q": master}, init), {"q": (12, 9)}, init=init, rank=3, scale=2.0, seed=0)
        np.testing.assert_allclose(one.trainable["q"].dense(), best, atol=1e-5)
    a = one.trainable["q"].a.astype(float)
    np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("rank", "published_rank", "kept"),
    [(1, 5, 0), (2, 5, 1), (3, 5, 1), (4, 5, 2), (7, 5, 3), (8, 5, 4), (8, 4, 4), (8, 3, 3), (8, 1, 1), (9, 0, 0)],
)
def test_half_continues_one_half_and_draws_the_other(rank: int, published_rank: int, kept: int):
    """The top ⌊r/2⌋ columns or what there is of them, as continue has them; the same fresh rows as fresh, below."""
    published = broadcast({"q": low_rank(np.random.default_rng(rank), (12, 9), published_rank)}, "half")

    def begun(init: str):
        return start(published, {"q": (12, 9)}, init=init, rank=rank, scale=3.7, seed=5)

    trainable, tail = begun("half")

    one, going, drawn = trainable["q"], begun("continue").trainable["q"], begun("fresh").trainable["q"]
    assert np.array_equal(one.b[:, :kept], going.b[:, :kept])
    assert np.array_equal(one.a[:kept], going.a[:kept])
    assert one.b[:, kept:].shape == (12, rank - kept)
    assert not one.b[:, kept:].any()
    assert np.array_equal(one.a[kept:], drawn.a[kept:])
    assert np.array_equal(tail["q"].b, published["q"].b[:, kept:])
    assert np.array_equal(tail["q"].a, published["q"].a[kept:])


def test_half_reaches_what_a_continued_start_cannot():
    """Clients that train B only can move the master along the rows of A: with half there are new ones each version."""
    master, seen = {"q": low_rank(np.random.default_rng(3), (12, 9), 2)}, []
    for version in range(3):
        one = start(broadcast(master, "half"), {"q": (12, 9)}, init="half", rank=4, scale=2.0, seed=version).trainable
        seen.append(one["q"].a)
    assert np.linalg.matrix_rank(np.vstack(seen)) == 2 + 3 * 2


def test_fresh_trains_from_zero_and_freezes_everything():
    """B = 0, so the first forward pass is base + master."""
    published = broadcast({"q": low_rank(np.random.default_rng(3), (12, 9), 5)}, "fresh")

    trainable, tail = start(published, {"q": (12, 9)}, init="fresh", rank=4, scale=2.0, seed=7)

    assert not trainable["q"].b.any()
    assert np.linalg.matrix_rank(trainable["q"].a) == 4
    assert bits(tail) == bits(published)


@INIT
def test_fresh_rows_are_uniform_and_depend_on_seed_and_module_only(init: str):
    """Within ±1/√k as torch's own initialisation, and not one stream for all modules."""
    shapes = {"p": (5, 400), "q": (6, 400)}

    first, again, other = (start({}, shapes, init=init, rank=8, scale=1.0, seed=seed).trainable for seed in (1, 1, 2))
    alone = start({}, {"q": (6, 400)}, init=init, rank=8, scale=1.0, seed=1).trainable

    a = first["q"].a
    assert bits(first) == bits(again)
    assert bits({"q": first["q"]}) == bits(alone)
    assert not np.array_equal(a, other["q"].a)
    assert not np.array_equal(a, first["p"].a)
    assert np.abs(a).max() <= 1 / 20
    assert np.mean(a**2) == pytest.approx(1 / 400 / 3, rel=0.05)
    assert abs(a.mean()) < 0.002
    narrow = start({}, {"q": (5, 1)}, init=init, rank=200, scale=1.0, seed=1).trainable["q"].a
    assert 0.9 < np.abs(narrow).max() <= 1


def test_a_start_is_the_same_bits_on_every_machine():
    """A pinned digest: whoever changes one bit of how a start is drawn must know that old clients disagree."""
    published = {"q": LowRank(np.arange(12, dtype=np.float32).reshape(6, 2) / 7, np.ones((2, 5), np.float32) / 3)}

    trainable, tail = start(published, {"q": (6, 5)}, init="continue", rank=4, scale=3.0, seed=42)

    assert hashlib.sha256(bits(trainable) + bits(tail)).hexdigest() == PINNED


PINNED = "d60888e94f35201e39117572eb04ce631eceda62bedaa5f7ff921805a820b632"


def test_a_round_from_truncated_starts_is_exact():
    """Ranks 1 to 8 of a master of rank 8: every client moves the whole master by its own innovation."""
    rng = np.random.default_rng(5)
    before = {name: low_rank(rng, shape, 7) for name, shape in SHAPES.items()}
    updates, moves = [], []
    for rank in (1, 2, 5, 8):
        one = start(broadcast(before, "continue"), SHAPES, init="continue", rank=rank, scale=2.0, seed=rank)
        trained = {name: trained_from(rng, term) for name, term in one.trainable.items()}
        updates.append(Update(trained, one.trainable, 1))
        moves.append({name: trained[name].dense() - one.trainable[name].dense() for name in SHAPES})

    after = aggregate(updates, before, Pipeline(rank=100)).master

    for name in SHAPES:
        expected = before[name].dense() + sum(move[name] for move in moves) / 4
        assert np.linalg.norm(after[name].dense() - expected) <= 1e-12 * np.linalg.norm(expected)


def test_fresh_starts_follow_flora():
    """Three rounds of fresh factors without a cut: W₀ gains Σ wᵢsᵢBᵢAᵢ per round, Wang et al. 2024."""
    rng = np.random.default_rng(6)
    master, total = {}, np.zeros((12, 9))
    for version in range(3):
        updates = []
        for client, (rank, weight) in enumerate(((2, 0.25), (4, 0.75))):
            one = start(broadcast(master, "fresh"), {"q": (12, 9)}, init="fresh", rank=rank, scale=2.0, seed=client)
            trained = trained_from(rng, one.trainable["q"])
            updates.append(Update({"q": trained}, one.trainable, int(4 * weight)))
            total += weight * 2.0 * trained.b.astype(float) @ trained.a.astype(float)
        master = aggregate(updates, master, Pipeline(rank=100)).master
        assert np.linalg.norm(master["q"].dense() - total) <= 1e-12 * np.linalg.norm(total), version


@pytest.mark.parametrize(("codec", "error"), [("fp32", 1e-6), ("fp16", 1e-3), ("int8", 2e-2)])
def test_a_sealed_delta_opens_as_the_update_it_was(codec: str, error: float):
    """Seal, send, open: the coordinator redoes the start and adds the decoded delta in float64."""
    rng = np.random.default_rng(7)
    published = broadcast({name: low_rank(rng, shape, 5) for name, shape in SHAPES.items()}, "continue")
    mine, theirs = (start(published, SHAPES, init="continue", rank=3, scale=2.0, seed=9).trainable for _ in range(2))
    trained = {name: trained_from(rng, term, step=1e-3) for name, term in mine.items()}

    sealed = encode(deltas(trained, mine), codec)
    opened = from_deltas(decode(sealed, limits=Limits()), theirs, examples=12, steps=3, staleness=1)

    expected = Update(trained, mine, 12, 3, 1).innovation()
    assert (opened.examples, opened.steps, opened.staleness) == (12, 3, 1)
    for name, delta in opened.innovation().items():
        assert np.linalg.norm(delta.dense() - expected[name].dense()) <= error * expected[name].norm()


def test_tensors_are_named_as_in_a_peft_folder():
    """A is (r, k), B is (d, r), and the scale stays out unless it is folded into B."""
    term = low_rank(np.random.default_rng(8), (12, 9), 3, scale=4.0)

    apart, folded = to_tensors({"m.q": term}), to_tensors({"m.q": term}, fold_scale=True)

    assert {name: tensor.shape for name, tensor in apart.items()} == {"m.q.lora_A": (3, 9), "m.q.lora_B": (12, 3)}
    for back in (from_tensors(apart, 4.0), from_tensors(folded)):
        np.testing.assert_array_equal(back["m.q"].dense(), term.dense())


ONES = {"q.lora_A": np.ones((2, 5), np.float32), "q.lora_B": np.ones((6, 2), np.float32)}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"q.lora_A": ONES["q.lora_A"]}, "q.lora_B"),
        ({**ONES, "q.magnitude": np.ones(3)}, "3 names|2 names|1 names"),
        ({**ONES, "q.lora_B": np.ones((6, 3))}, r"\(6, 3\) and \(2, 5\)"),
        ({**ONES, "q.lora_A": np.ones(5)}, r"\(5,\)"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(tensors, says):
    """A factor without its partner, a name of another kind, two that cannot be multiplied."""
    with pytest.raises(BadTensor, match=says):
        from_tensors(tensors)


def test_deltas_of_another_start_are_refused():
    """Of another rank, module or scale."""
    rng = np.random.default_rng(9)
    begun = {"q": low_rank(rng, (6, 5), 2)}

    for other, says in (
        (
            {"q": low_rank(rng, (4, 7), 3, 0.5)},
            r"as \(4, 7\), rank 3, scale 0\.5 from a start of \(6, 5\), rank 2, scale 1",
        ),
        ({"q": begun["q"].times(2)}, r"as \(6, 5\), rank 2, scale 2"),
        ({"p": begun["q"]}, "^2 modules are in one"),
    ):
        with pytest.raises(BadUpdate, match=says):
            deltas(other, begun)
    assert {tensor.dtype for tensor in deltas({"q": trained_from(rng, begun["q"])}, begun).values()} == {np.dtype("f4")}
    with pytest.raises(BadUpdate, match=r"^q .*\(6, 3\) to a factor of shape \(6, 2\)"):
        from_deltas(to_tensors({"q": low_rank(rng, (6, 5), 3)}), begun, examples=1)
    with pytest.raises(BadUpdate, match="1 modules"):
        from_deltas(to_tensors({"q": begun["q"], "p": begun["q"]}), begun, examples=1)


@pytest.mark.parametrize(
    ("trains", "expected"),
    [
        ("both", ["both"] * 4),
        ("b", ["b"] * 4),
        ("a", ["a"] * 4),
        ("alternately", ["b", "a", "b", "a"]),
        ("core", ["both"] * 4),
    ],
)
def test_alternating_rules_begin_with_b(trains, expected: list[str]):
    """At version 0 B is zero: A against it has no gradient."""
    assert [moves_at(trains, version) for version in range(4)] == expected


@pytest.mark.parametrize(("moves", "frozen"), [("b", "a"), ("a", "b")])
def test_only_the_factor_that_moves_travels(moves, frozen: str):
    """Half of the numbers; the coordinator takes the other factor from the start, and the innovation has rank r."""
    rng = np.random.default_rng(11)
    begun = {name: low_rank(rng, shape, 3, 2.0) for name, shape in SHAPES.items()}
    trained = {name: frozen_but(trained_from(rng, term), term, frozen) for name, term in begun.items()}

    sent = deltas(trained, begun, moves)
    update = from_deltas(sent, begun, examples=5, moves=moves)

    assert set(sent) == {f"{name}.lora_{moves.upper()}" for name in SHAPES}
    assert (update.examples, update.steps, update.staleness) == (5, 1, 0)
    for name, term in update.trained.items():
        assert getattr(term, frozen) is getattr(begun[name], frozen)
        np.testing.assert_allclose(getattr(term, moves), getattr(trained[name], moves), atol=1e-7)
        innovation = update.innovation()[name]
        assert innovation.rank == 3
        np.testing.assert_allclose(innovation.dense(), trained[name].dense() - begun[name].dense(), atol=1e-5)


@pytest.mark.parametrize(("moves", "frozen"), [("b", "a"), ("a", "b")])
def test_a_factor_that_should_not_move_is_refused(moves, frozen: str):
    """On the client, where it would be lost, and on the coordinator, where another version's client sent it."""
    rng = np.random.default_rng(12)
    begun = {"q": low_rank(rng, (6, 5), 2, 2.0)}
    trained = {"q": trained_from(rng, begun["q"])}

    with pytest.raises(BadUpdate, match=f"q.lora_{frozen.upper()} changed, and only {moves}"):
        deltas(trained, begun, moves)
    for others in (deltas(trained, begun), deltas({"q": frozen_but(trained["q"], begun["q"], moves)}, begun, frozen)):
        with pytest.raises(BadTensor, match=rf"names have no partner or do not end in .lora_{moves.upper()}, such"):
            from_deltas(others, begun, examples=1, moves=moves)


def frozen_but(trained: LowRank, start_: LowRank, frozen: str) -> LowRank:
    """Return *trained* with the *frozen* factor of its start."""
    return LowRank(start_.b if frozen == "b" else trained.b, start_.a if frozen == "a" else trained.a, trained.scale)


def one_start(master, init: str, version: int, rank: int = 3) -> LowRank:
    """Return the trainable start of any client of *version*, of a module of 12 × 9 at scale 2."""
    published = broadcast(master, init)
    return start(published, {"q": (12, 9)}, init=init, rank=rank, scale=2.0, seed=version).trainable["q"]


def test_a_kept_factor_is_the_same_bits_in_every_version():
    """Rule ffa over four versions: A stays as it was drawn, so an update that is two versions late still adds up."""
    rng, master, total = np.random.default_rng(14), {}, np.zeros((12, 9))
    drawn = one_start({}, "keep", 0)
    late = None
    for version in range(4):
        begun = one_start(master, "keep", version)
        assert begun.a.tobytes() == drawn.a.tobytes()
        assert version == 0 or begun.b.any()
        trained = [frozen_but(trained_from(rng, begun, step=1.0), begun, "a") for _ in range(3)]
        updates = [Update({"q": one}, {"q": begun}, 1) for one in trained]
        moves = [one.dense() - begun.dense() for one in trained]
        if version == 1:
            late, missed = Update({"q": trained[0]}, {"q": begun}, 1, staleness=2), moves[0]
        if version == 3:
            updates, moves = [*updates, late], [*moves, missed]
        total += sum(moves) / len(moves)
        master = aggregate(updates, master, Pipeline("ffa", rank=12)).master
        np.testing.assert_allclose(master["q"].dense(), total, atol=1e-6)
        np.testing.assert_allclose(one_start(master, "keep", 9).dense(), total, atol=1e-5)

    assert broadcast(master, "keep")["q"].rank == 3


def test_alternating_versions_train_against_what_the_one_before_left():
    """Rule rolora: B at version 0, then A against that B, then B against that A; the other factor keeps its bits."""
    rng, master, total, before = np.random.default_rng(15), {}, np.zeros((12, 9)), None
    for version in range(4):
        begun, moves = one_start(master, "keep", version), moves_at("alternately", version)
        frozen = "a" if moves == "b" else "b"
        if before is not None:  # what was trained in the version before is public now, what was public is as it was
            assert getattr(begun, moves).tobytes() == getattr(before, moves).tobytes()
            assert getattr(begun, frozen).tobytes() != getattr(before, frozen).tobytes()
        trained = [frozen_but(trained_from(rng, begun, step=0.5), begun, frozen) for _ in range(3)]
        total += sum(one.dense() - begun.dense() for one in trained) / 3
        updates = [
            from_deltas(deltas({"q": one}, {"q": begun}, moves), {"q": begun}, examples=1, moves=moves)
            for one in trained
        ]
        master = aggregate(updates, master, Pipeline("rolora", rank=12)).master
        np.testing.assert_allclose(master["q"].dense(), total, atol=1e-5)
        before = begun


def test_keep_publishes_the_master_as_it_stands():
    """Neither decomposed nor sorted nor balanced; the scale goes into B."""
    term = low_rank(np.random.default_rng(16), (12, 9), 3, scale=2.0)

    sent = broadcast({"q": term}, "keep")["q"]
    begun = start({"q": sent}, {"q": (12, 9)}, init="keep", rank=2, scale=4.0, seed=0)

    assert np.array_equal(sent.b, 2 * term.b)
    assert np.array_equal(sent.a, term.a)
    assert np.array_equal(begun.trainable["q"].b, term.b[:, :2] / 2)
    assert np.array_equal(begun.trainable["q"].a, term.a[:2])
    assert np.array_equal(begun.tail["q"].b, 2 * term.b[:, 2:])


def test_columns_that_are_rounding_are_not_published():
    """σ = (1, 2⁻²¹, 2⁻²³): float32 resolves the second beside the first, and of the third it makes noise."""
    rng = np.random.default_rng(17)
    u, v = (np.linalg.qr(rng.normal(size=(side, 3)))[0] for side in (12, 9))
    master = {"q": LowRank(u * [1.0, 2.0**-21, 2.0**-23], v.T)}

    for init in ("continue", "half", "orthonormal", "fresh"):
        assert broadcast(master, init)["q"].rank == 2
    assert broadcast(master, "keep")["q"].rank == 3
    at = {"q": LowRank(np.eye(12)[:, :2] * [1.0, 2.0**-22], np.eye(9)[:2])}
    assert broadcast(at, "continue")["q"].rank == 1
    assert broadcast({"q": LowRank(np.zeros((12, 2)), np.zeros((2, 9)))}, "continue")["q"].rank == 0


@pytest.mark.parametrize("init", ["continue", "orthonormal"])
def test_a_public_factor_is_one_for_all_clients_and_spans_the_same_from_version_to_version(init: str):
    """Three clients train B only, for four versions: A is turned by the decomposition, its rows span what they did.

    So Σ cᵢBᵢ·A is what one may say of every round, and clients are never sent more than r columns.
    """
    rng, master, total, spans = np.random.default_rng(13), {}, np.zeros((12, 9)), []
    for version in range(4):
        starts = [one_start(master, init, version) for _ in range(3)]
        assert len({one.a.tobytes() for one in starts}) == 1
        trained = [frozen_but(trained_from(rng, one, step=1.0), one, "a") for one in starts]
        total += sum(one.dense() - starts[0].dense() for one in trained) / 3
        updates = [Update({"q": one}, {"q": starts[0]}, 1) for one in trained]
        master = aggregate(updates, master, Pipeline(rank=9)).master
        spans.append(np.linalg.pinv(starts[0].a.astype(float)) @ starts[0].a.astype(float))
        assert broadcast(master, init)["q"].rank == 3
        np.testing.assert_allclose(master["q"].dense(), total, atol=1e-6)

    assert np.linalg.norm(spans[-1] - spans[0]) <= 1e-5


def doubled(term: LowRank, *, b: bool) -> LowRank:
    """Return *term* with one factor in double precision."""
    return LowRank(term.b.astype(np.float64), term.a) if b else LowRank(term.b, term.a.astype(np.float64))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda p: start(p, {"q": (6, 5)}, init="contineu", rank=1, scale=1.0, seed=0),
            UnknownName,
            "^no init is called 'contineu'",
        ),
        (lambda p: start(p, {"q": (6, 5)}, init="fresh", rank=0, scale=1.0, seed=0), BadSetting, "rank is 0"),
        (lambda p: start(p, {"q": (6, 5)}, init="fresh", rank=1, scale=0.0, seed=0), BadSetting, r"scale is 0\.0"),
        (
            lambda p: start(p, {"q": (6, 5)}, init="fresh", rank=1, scale=float("inf"), seed=0),
            BadSetting,
            "scale is inf",
        ),
        (lambda p: start(p, {"q": (5, 6)}, init="fresh", rank=1, scale=1.0, seed=0), BadTensor, r"\(6, 5\)"),
        (lambda p: start(p, {"p": (6, 5)}, init="fresh", rank=1, scale=1.0, seed=0), BadTensor, "such as q"),
        (lambda p: broadcast(p, "halve"), UnknownName, "^no init is called 'halve'"),
        (
            lambda p: start({"q": p["q"].times(2.0)}, {"q": (6, 5)}, init="fresh", rank=1, scale=1.0, seed=0),
            BadTensor,
            r"^q was published as \(6, 5\), float32, scale 2\.0; \(6, 5\) float32 is needed",
        ),
        (
            lambda p: start({"q": doubled(p["q"], b=False)}, {"q": (6, 5)}, init="fresh", rank=1, scale=1.0, seed=0),
            BadTensor,
            "^q was published as",
        ),
        (
            lambda p: start({"q": doubled(p["q"], b=True)}, {"q": (6, 5)}, init="fresh", rank=1, scale=1.0, seed=0),
            BadTensor,
            r"^q was published as \(6, 5\), float64",
        ),
        (lambda p: broadcast({"q": p["q"].times(1e90)}, "continue"), BadTensor, "overflows float32"),
        (lambda _: scaling(16, 0), BadSetting, "rank is 0"),
        (lambda _: scaling(0.0, 4), BadSetting, r"alpha is 0\.0"),
        (lambda _: scaling(float("inf"), 4), BadSetting, "alpha is inf"),
        (lambda _: scaling(float("nan"), 1), BadSetting, "alpha is nan"),
    ],
)
def test_an_impossible_start_is_refused(call, error, says):
    """With the name or the numbers."""
    with pytest.raises(error, match=says):
        call({"q": low_rank(np.random.default_rng(10), (6, 5), 2)})
