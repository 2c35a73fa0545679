"""The proximal term: exact without a dense matrix, blind to the gauge, careful near the start, and off by default."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potluck.client.readers import Part, Sample
from potluck.client.training.adapters import attach, detach, factors
from potluck.client.training.bases import shapes
from potluck.client.training.batches import Batches, make
from potluck.client.training.loop import train
from potluck.client.training.proximal import Anchor, Proximal
from potluck.client.work import Stride, Word
from potluck.wire.recipe import Adapter, Training
from tiny import random_adapter

SETTINGS = Adapter(rank=2, alpha=6.0, targets=("q_proj", "v_proj"))
TRAINING = Training(steps=6, batch=2, learning_rate=1e-2, checkpoint_steps=2)
MOVES = pytest.mark.parametrize("moves", ["both", "b", "a"])


def anchor(seed: int, dtype: torch.dtype, *, step: float = 0.3, moves: str = "both") -> Anchor:
    """Return a module of 7 × 5, rank 3 and scale 1.7 that moved by about *step* from its start."""
    draw = torch.Generator().manual_seed(seed)
    b_start, a_start, b_moved, a_moved = (
        torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in ((7, 3), (3, 5)) * 2
    )
    b = (b_start + step * b_moved * (moves != "a")).requires_grad_(moves != "a")
    a = (a_start + step * a_moved * (moves != "b")).requires_grad_(moves != "b")
    return Anchor(b, a, b_start, a_start, 1.7)


def dense(one: Anchor) -> torch.Tensor:
    """Return ‖s·B·A − T‖_F² as it is written, in float64."""
    b, a, b_start, a_start = (tensor.double() for tensor in (one.b, one.a, one.b_start, one.a_start))
    return (one.scale * b @ a - one.scale * b_start @ a_start).square().sum()


def gradients(value: torch.Tensor, one: Anchor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, [tensor for tensor in (one.b, one.a) if tensor.requires_grad]))


@MOVES
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@given(seed=st.integers(0, 2**32))
def test_value_and_gradient_are_those_of_the_dense_formula(moves: str, dtype, error: float, seed: int):
    one = anchor(seed, dtype, moves=moves)

    value = one.squared_distance()

    assert value.dtype == dtype
    assert value.item() == pytest.approx(dense(one).item(), rel=error)
    for found, expected in zip(gradients(value, one), gradients(dense(one), one), strict=True):
        assert torch.linalg.norm(found - expected) <= error * torch.linalg.norm(expected)


def test_a_known_answer():
    """With s = 3, T = 3·(1, 2)ᵀ(1, 1), B moves by (1, 0)ᵀ and A by (0, 2): ‖3·[[1, 5], [0, 4]]‖² = 9·42."""
    start = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 1.0]])
    one = Anchor(
        torch.tensor([[2.0], [2.0]], requires_grad=True), torch.tensor([[1.0, 3.0]], requires_grad=True), *start, 3.0
    )

    assert one.squared_distance().item() == 378.0
    assert Proximal(1.0, (one,)).added_to(torch.tensor(5.0)).item() == 5.0 + 189.0
    assert Proximal(0.5, (one, one)).added_to(torch.tensor(5.0)).item() == 5.0 + 189.0


@given(seed=st.integers(0, 2**32))
def test_no_gauge_changes_the_value(seed: int):
    """(B·M, M⁻¹·A) is the same matrix; so is T through other factors.  FedProx on factors fails this."""
    one = anchor(seed, torch.float64)
    draw = torch.Generator().manual_seed(seed + 1)
    mixes = []
    for _ in range(2):
        rotation = torch.linalg.qr(torch.randn((3, 3), generator=draw, dtype=torch.float64))[0]
        mixes.append(rotation * (0.5 + 1.5 * torch.rand(3, generator=draw, dtype=torch.float64)))
    turned = Anchor(
        (one.b @ mixes[0]).detach().requires_grad_(),
        torch.linalg.solve(mixes[0], one.a).detach().requires_grad_(),
        one.b_start @ mixes[1],
        torch.linalg.solve(mixes[1], one.a_start),
        one.scale,
    )

    assert turned.squared_distance().item() == pytest.approx(one.squared_distance().item(), rel=1e-10)
    on_factors = [(x.b - x.b_start).square().sum() + (x.a - x.a_start).square().sum() for x in (one, turned)]
    assert abs((on_factors[0] - on_factors[1]).item()) > 1e-3


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
def test_near_the_start_no_digit_is_lost(step: float):
    """float32 factors of size 1 that moved by a few of their last bits; [B, −B₀]·[A; A₀], as cheap, is off by far."""
    one = anchor(3, torch.float32, step=step)
    expected = dense(one).item()

    assert one.squared_distance().item() == pytest.approx(expected, rel=1e-5)
    x, y = torch.cat([one.b, -one.b_start], dim=1), torch.cat([one.a, one.a_start])
    naive = one.scale**2 * ((x.T @ x) * (y @ y.T)).sum()
    assert abs(naive.item() / expected - 1) > 1e-4 * (1e-2 / step) ** 2


@MOVES
def test_at_the_start_value_and_gradient_are_exactly_zero(moves: str):
    one = anchor(4, torch.float32, step=0.0, moves=moves)

    value = one.squared_distance()

    assert value.item() == 0.0
    assert not any(gradient.any() for gradient in gradients(value, one))


def test_no_dense_matrix_is_made():
    """200,000 × 200,000 in float32 would be 160 GB."""
    side = 200_000
    b, a = torch.ones((side, 1), requires_grad=True), torch.ones((1, side), requires_grad=True)
    one = Anchor(b, a, torch.ones((side, 1)), torch.zeros((1, side)), 1.0)

    one.squared_distance().backward()

    assert one.squared_distance().item() == pytest.approx(side**2, rel=1e-5)
    torch.testing.assert_close(b.grad, torch.full((side, 1), 2.0 * side))


# -- in training ----------------------------------------------------------------------------------------------------


@pytest.fixture
def batches(loaded) -> Batches:
    samples = [Sample((Part("", f"the {word} sat on the mat. " * 4, trained=True),)) for word in ("cat", "dog", "hen")]
    return make(samples, loaded[1], max_tokens=24, rows=2, seed=7)


@pytest.fixture
def trained(loaded, base, batches):
    """A function that trains the same start with some settings, and tells how far the products moved, and the loss."""
    sides = shapes(base.folder, SETTINGS.targets)
    start = random_adapter(sides, 2, seed=1, scale=SETTINGS.scale)

    def run(training: Training, **others):
        adapted = attach(loaded[0], start, {}, SETTINGS)
        ran = train(adapted, batches, training, **others)
        ended = factors(adapted, SETTINGS)
        detach(adapted)
        moved = sum(np.linalg.norm(ended[name].dense() - start[name].dense()) ** 2 for name in sides)
        return ended, moved**0.5, ran

    return run


def with_mu(mu: float, **others) -> Training:
    return TRAINING.model_copy(update={"proximal": mu, **others})


def bits(adapter) -> dict[str, bytes]:
    return {name: term.b.tobytes() + term.a.tobytes() for name, term in adapter.items()}


def test_a_stronger_pull_keeps_the_product_nearer_to_the_start(trained):
    """0, weak, strong, very strong; the loss that is reported is the text's alone."""
    moved = {mu: trained(with_mu(mu, steps=30))[1] for mu in (0.0, 0.01, 1.0, 100.0)}

    assert moved[0.0] > 3 * moved[0.01] > 30 * moved[1.0] > 30 * moved[100.0] > 0


def test_without_a_pull_training_is_bit_for_bit_what_it_was(trained, loaded):
    """And in the first step a pull has nothing to pull back: FedProx with one local step is FedAvg."""
    assert Proximal.at(loaded[0], 0.0).anchors == ()
    assert bits(trained(with_mu(0.0, steps=1))[0]) == bits(trained(with_mu(7.0, steps=1))[0])
    assert bits(trained(with_mu(0.0, steps=2))[0]) != bits(trained(with_mu(7.0, steps=2))[0])


def test_the_reported_loss_is_that_of_the_text_alone(trained):
    """So that volunteers with and without a pull can be compared: the first steps agree, whatever the term is worth."""
    told: dict[float, list[float]] = {0.0: [], 1e3: []}
    for mu, losses in told.items():
        ran = trained(with_mu(mu, steps=2), on_step=lambda s, losses=losses: (losses.append(s.loss), Word.GO)[1])[2]
        assert ran.loss == pytest.approx(np.mean(losses))

    assert told[1e3] == told[0.0]


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupted_run_is_still_pulled_to_where_the_round_began(trained, tmp_path: Path, at: int):
    """Not to where the checkpoint was."""
    expected = bits(trained(with_mu(50.0))[0])

    def suspend(stride: Stride) -> Word:
        return Word.SUSPEND if stride.done == at else Word.GO

    assert trained(with_mu(50.0), folder=tmp_path, on_step=suspend)[2] is None

    assert bits(trained(with_mu(50.0), folder=tmp_path)[0]) == expected
