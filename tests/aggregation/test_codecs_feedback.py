"""Error feedback: nothing is left out for good, and a rest means the same in the next version's basis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.aggregation import BadTensor, Limits, LowRank, Pipeline, aggregate, broadcast, decode, encode, start
from potluck.aggregation import from_deltas as update_of
from potluck.aggregation.codecs.feedback import feed, rebased, turn

ROOMY = Limits()
STEP = 0.05


def coarse(tensors):
    """The most forgetful codec that there is."""
    return encode(tensors, "sparse2bit", chunk=64, k=2)


def changes(seed: int, turn: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, turn])
    return {"q.lora_A": rng.normal(size=(4, 30)), "q.lora_B": rng.standard_t(3, size=(25, 4))}


@given(
    seed=st.integers(0, 1000), codec=st.sampled_from(["sparse2bit", "levels", "topk", "int4", "nf4", "int8", "fp16"])
)
@settings(deadline=None, max_examples=40)
def test_all_that_was_sent_and_what_is_left_is_all_that_changed(seed: int, codec: str):
    """T7: Σ sent + e_T = Σ Δ to 1e-12 with β = 1, whatever the codec."""
    left: dict[str, np.ndarray] = {}
    sent = {name: np.zeros(value.shape) for name, value in changes(seed, 0).items()}

    for number in range(6):
        fed = feed(changes(seed, number), left, lambda tensors: encode(tensors, codec), beta=1.0)
        left = fed.left
        for name, value in decode(fed.message, limits=ROOMY).items():
            sent[name] += value

    for name, total in sent.items():
        expected = sum(changes(seed, number)[name] for number in range(6))
        np.testing.assert_allclose(total + left[name], expected, rtol=0, atol=1e-12)


def test_beta_is_the_share_of_the_rest_that_is_added():
    """By hand: topk 1 of 64 sends 8, then 0.5 · 4 + 3 = 5, and leaves what it did not send."""
    first, second = np.zeros(64), np.zeros(64)
    first[[3, 7]] = 8, 4
    second[[7, 9]] = 3, -2

    one = feed({"v": first}, {}, lambda t: encode(t, "topk", chunk=64, k=1), beta=0.5)
    two = feed({"v": second}, one.left, lambda t: encode(t, "topk", chunk=64, k=1), beta=0.5)

    assert np.flatnonzero(one.left["v"]).tolist() == [7]
    assert one.left["v"][7] == 4
    found = decode(two.message, limits=ROOMY)["v"]
    assert (np.flatnonzero(found).tolist(), found[7]) == ([7], 5)
    assert (np.flatnonzero(two.left["v"]).tolist(), two.left["v"][9]) == ([9], -2)


def test_by_default_nothing_is_forgotten():
    one = feed({"v": np.ones(64)}, {"v": np.full(64, 2.0)}, lambda t: encode(t, "fp32"))

    assert decode(one.message, limits=ROOMY)["v"].tolist() == [3.0] * 64


def test_a_tensor_that_is_not_sent_this_time_waits_as_it_is():
    """Rules that train one factor at a time send the other one's rest when its turn comes, whole."""
    held = {"q.lora_A": np.arange(64.0), "q.lora_B": np.ones(64)}

    fed = feed({"q.lora_B": np.zeros(64)}, held, coarse, beta=0.5)

    assert fed.left["q.lora_A"].tolist() == held["q.lora_A"].tolist()
    assert decode(fed.message, limits=ROOMY).keys() == {"q.lora_B"}


def test_a_rest_of_another_shape_is_refused():
    with pytest.raises(BadTensor, match=r"v changes in shape \(3,\), and its residual has \(4,\)"):
        feed({"v": np.zeros(3)}, {"v": np.zeros(4)}, coarse)


def adapter(seed: int, rank: int = 3) -> dict[str, LowRank]:
    rng = np.random.default_rng(seed)
    sizes = np.array([3.0, 2.0, 1.0, 0.5])[:rank]
    b, a = rng.normal(size=(12, rank)), rng.normal(size=(rank, 9))
    return {"q": LowRank(np.linalg.qr(b)[0] * sizes, sizes[:, None] * np.linalg.qr(a.T)[0].T, 2.0)}


def rotation(seed: int, rank: int = 3):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rank, rank)))[0]


def rest(seed: int, rank: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"q.lora_A": rng.normal(size=(rank, 9)), "q.lora_B": rng.normal(size=(12, rank))}


def effect(residual, begun):
    """What a rest does to the product, to first order."""
    term = begun["q"]
    return residual["q.lora_B"] @ term.a + term.b @ residual["q.lora_A"]


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_turned_basis_changes_nothing_that_a_rest_does(seed: int):
    """(B·Q, Qᵀ·A) is the same adapter: the rest is e·Q and Qᵀ·e, and its product the same to 1e-12."""
    before, q = adapter(seed), rotation(seed + 1)
    now = {"q": LowRank(before["q"].b @ q, q.T @ before["q"].a, 2.0)}

    found = rebased(rest(seed + 2), before, now)

    np.testing.assert_allclose(turn(before["q"], now["q"]), q, atol=1e-12)
    np.testing.assert_allclose(effect(found, now), effect(rest(seed + 2), before), atol=1e-12)
    np.testing.assert_allclose(effect(rebased(found, now, before), before), effect(rest(seed + 2), before), atol=1e-12)


def test_the_turn_known_answer():
    """Two columns that changed places, one with its sign: e·Q does the same to the rest."""
    before = {"q": LowRank(np.array([[2.0, 0], [0, 1]]), np.array([[2.0, 0], [0, 1]]))}
    now = {"q": LowRank(np.array([[0.0, 2], [-1, 0]]), np.array([[0.0, -1], [2, 0]]))}

    found = rebased({"q.lora_B": np.array([[5.0, 7], [1, 3]]), "q.lora_A": np.array([[5.0, 7], [1, 3]])}, before, now)

    assert found["q.lora_B"].tolist() == [[-7, 5], [-3, 1]]
    assert found["q.lora_A"].tolist() == [[-1, -3], [5, 7]]


def test_a_turn_never_makes_a_rest_larger():
    """However far the master moved; and both factors decide how it turned, not one."""
    found = rebased(rest(5), adapter(6), adapter(7))

    for name, value in rest(5).items():
        assert np.linalg.norm(found[name]) == pytest.approx(np.linalg.norm(value), rel=1e-12)
    for frozen in ("a", "b"):
        one, other = adapter(6)["q"], adapter(7)["q"]
        mixed = LowRank(one.b if frozen == "b" else other.b, one.a if frozen == "a" else other.a)
        assert not np.allclose(turn(one, mixed), turn(one, other))


def test_a_rest_of_the_same_start_stays_as_it_is():
    np.testing.assert_allclose(rebased(rest(1), adapter(2), adapter(2))["q.lora_B"], rest(1)["q.lora_B"], atol=1e-14)


@pytest.mark.parametrize(
    ("residual", "now", "says"),
    [
        ({"p.lora_A": np.zeros((3, 9))}, adapter(1), "p is not in both starts"),
        (rest(1), adapter(1, rank=2), "q is not in both starts, at one rank"),
        ({"q.bias": np.zeros(3)}, adapter(1), "q.bias, and ends in neither"),
    ],
)
def test_a_rest_that_belongs_to_no_module_is_refused(residual, now, says: str):
    with pytest.raises(BadTensor, match=says):
        rebased(residual, adapter(2), now)
    if "q.bias" not in residual:  # nor of one that is in the new start alone
        with pytest.raises(BadTensor, match=r"^[pq] is not in both starts"):
            rebased(residual, {}, adapter(1))


def learned(rounds: int, *, feedback: bool, turning: bool) -> float:
    """Return how far one client comes from a product of rank 3, when 1 value in 32 travels.

    Each round the client takes one step against the gradient of ‖s·B·A + tail − W‖²/2 in both factors.
    """
    rng = np.random.default_rng(11)
    target = rng.normal(size=(24, 3)) @ rng.normal(size=(3, 20)) / 20
    shapes, master, left, before = {"q": (24, 20)}, {}, {}, None
    state = None
    for number in range(rounds):
        published = broadcast(master, "continue") if master else {}
        begun = start(published, shapes, init="continue", rank=3, scale=1.0, seed=number)
        term, tail = begun.trainable["q"], begun.tail["q"]
        gap = target - term.b.astype(float) @ term.a - tail.b.astype(float) @ tail.a
        change = {"q.lora_B": STEP * gap @ term.a.T, "q.lora_A": STEP * term.b.T @ gap}
        held = left if before is None or not turning else rebased(left, before, begun.trainable)
        fed = feed(change, held if feedback else {}, lambda t: encode(t, "topk", chunk=64, k=2))
        left, before = fed.left, begun.trainable
        update = update_of(decode(fed.message, limits=ROOMY), begun.trainable, examples=1)
        done = (
            aggregate([update], master, Pipeline(rank=12), state)
            if state
            else aggregate([update], master, Pipeline(rank=12))
        )
        master, state = done.master, done.state
    return float(np.linalg.norm(master["q"].dense() - target) / np.linalg.norm(target))


def test_feedback_learns_what_would_be_forgotten_and_turning_learns_it_sooner():
    without, still, turned = (
        learned(80, feedback=feedback, turning=turning)
        for feedback, turning in ((False, False), (True, False), (True, True))
    )

    assert turned < still < without
    assert turned < 0.75 * without
