"""A personal adapter on a real model: what the gate does, what is trained and what is not, what the losses mean."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from potluck.aggregation import LowRank
from potluck.client.data import Split
from potluck.client.errors import Interrupted
from potluck.client.personal import About, Personal, Wish
from potluck.client.readers import Part, Sample
from potluck.client.training.adapters import TAIL, TRAINED, adapted_modules, mount
from potluck.client.training.bases import Base, load
from potluck.client.training.errors import BadAdapter
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.export import read_peft, write_peft
from potluck.client.training.gates import add_gates, constants, gates
from potluck.client.training.personal import (
    FEWEST,
    MOST,
    Ground,
    begun,
    carrying,
    fitting,
    measured,
    personalize,
    steps_of,
)
from potluck.client.work import Word
from potluck.wire.recipe import Recipe
from tiny import random_adapter

IDS = torch.randint(3, 259, (2, 21), generator=torch.Generator().manual_seed(8))
NAMES = [f"model.layers.{i}.self_attn.{side}_proj" for i in (0, 1) for side in "qv"]
SIDES = dict(zip(NAMES, [(64, 64), (32, 64)] * 2, strict=True))
ABOUT = About("run", "tiny", 3, "", "", "notes", Wish(rank=2, steps=12, learning_rate=1e-2))


def said(words: str, count: int) -> tuple[Sample, ...]:
    return tuple(Sample((Part("", f"{words} {i} of them. " * 6, trained=True),)) for i in range(count))


def recipe() -> Recipe:
    return Recipe.parse(
        json.dumps(
            {
                "run": {"name": "tiny"},
                "model": {"base": "tiny", "digest": "ab" * 32, "modules": SIDES},
                "adapter": {"rank": 4, "targets": ["q_proj", "v_proj"]},
                "data": {"max_tokens": 48},
                "training": {"batch": 2},
            }
        )
    )


@pytest.fixture(scope="module")
def ground(base: Base) -> Ground:
    shared = {name: LowRank(t.b * 0.2, t.a, 1.0) for name, t in random_adapter(SIDES, 3, seed=4).items()}
    texts = Split(said("my own elks are", 12), said("my own elks are", 15)[12:])
    return Ground(*load(base, torch.device("cpu"), torch.float32), recipe(), shared, texts)


@pytest.fixture(scope="module")
def made(ground: Ground) -> Personal:
    return personalize(ground, ABOUT)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def gated(seed: int = 6) -> Personal:
    """Return an adapter whose gates differ from 1 everywhere."""
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=k + 1).astype(np.float32) for name, (_, k) in SIDES.items()}
    return Personal(ABOUT, random_adapter(SIDES, 2, seed=seed, scale=2.0), values)


def test_a_gate_begins_as_if_there_were_none(ground: Ground):
    personal = dataclasses.replace(gated(), gates={})
    with carrying(ground, personal) as without:
        expected = logits(without)
    with carrying(ground, personal) as adapted:
        add_gates(adapted)

        assert torch.equal(logits(adapted), expected)


def test_a_module_computes_what_the_formula_says(ground: Ground):
    """W·x + S·x + g(x)·s·B·A·x with g(x) = 2·σ(w·x + c), in float64 by hand."""
    personal, name = gated(), NAMES[0]
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    with carrying(ground, personal) as adapted, torch.inference_mode():
        module = dict(adapted_modules(adapted, TRAINED))[name]
        actual = module(x).numpy()
        weight = module.base_layer.weight.numpy().astype(np.float64)

    x64, gate = x.numpy().astype(np.float64), personal.gates[name].astype(np.float64)
    g = 2 / (1 + np.exp(-(x64 @ gate[:-1] + gate[-1])))
    term = personal.products[name]
    expected = x64 @ (weight + ground.shared[name].dense()).T + g[:, None] * (x64 @ term.dense().T)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert g.max() - g.min() > 1.0


def test_gates_go_in_and_come_out_the_same(ground: Ground):
    personal = gated()
    with carrying(ground, personal) as adapted:
        for name, gate in gates(adapted).items():
            np.testing.assert_array_equal(gate, personal.gates[name])


def test_a_stand_in_is_the_best_constant_in_least_squares(ground: Ground):
    """Against a brute least-squares fit over every token that goes through the module."""
    personal, name = gated(), NAMES[1]
    batches = [next(ground.batches(0).after(i)) for i in range(2)]
    seen: list[np.ndarray] = []
    with carrying(ground, personal) as adapted:
        module = dict(adapted_modules(adapted, TRAINED))[name]
        hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy().copy()))
        actual = constants(adapted, batches)
        hook.remove()

    x = np.concatenate([part.reshape(-1, 64) for part in seen]).astype(np.float64)
    y = x @ personal.products[name].dense().T
    gate = personal.gates[name].astype(np.float64)
    g = 2 / (1 + np.exp(-(x @ gate[:-1] + gate[-1])))
    expected = np.linalg.lstsq(y.reshape(-1, 1), (g[:, None] * y).reshape(-1), rcond=None)[0][0]
    assert actual[name] == pytest.approx(expected, rel=1e-4)
    assert set(actual) == set(SIDES)


def test_it_learns_the_owners_words_and_leaves_everything_else_alone(ground: Ground, made: Personal):
    base = logits(ground.model)
    shared = {name: (term.b.copy(), term.a.copy()) for name, term in ground.shared.items()}

    again = personalize(ground, ABOUT)

    assert torch.equal(logits(ground.model), base)
    assert not isinstance(ground.model, PeftModel)
    for name, (b, a) in shared.items():
        np.testing.assert_array_equal(ground.shared[name].b, b)
        np.testing.assert_array_equal(ground.shared[name].a, a)
    losses = made.about.losses
    assert losses is not None
    assert losses.both < losses.shared - 0.2
    assert losses.both < losses.personal  # it was trained beside the shared one
    assert again.to_bytes() == made.to_bytes()
    assert all(np.abs(gate).max() > 0 for gate in made.gates.values())
    assert any(abs(constant - 1) > 1e-3 for constant in made.constants.values())


def test_the_losses_are_those_of_the_models_that_they_name(ground: Ground, made: Personal):
    held_out, losses = ground.texts.held_out, made.about.losses
    assert losses is not None

    def loss(model) -> float:
        return held_out_loss(model, ground.tokenizer, held_out, 48)[0]

    assert losses.base == pytest.approx(loss(ground.model), rel=1e-6)
    mounted = mount(ground.model, ground.shared)
    assert losses.shared == pytest.approx(loss(mounted), rel=1e-6)
    mounted.unload()
    with carrying(ground, made) as adapted:
        assert losses.both == loss(adapted)
        adapted.base_model.set_adapter([TRAINED])
        assert losses.personal == loss(adapted)
        adapted.base_model.set_adapter([TAIL])
        assert losses.shared == loss(adapted)


def test_what_is_exported_is_what_was_measured(ground: Ground, made: Personal, base: Base, tmp_path: Path):
    """A PEFT folder, opened by peft alone on a fresh base, has the loss that the report states."""
    write_peft(made.beside(ground.shared), tmp_path / "out", base="tiny")
    fresh, _ = load(base, torch.device("cpu"), torch.float32)
    opened = PeftModel.from_pretrained(fresh, tmp_path / "out")

    loss, _ = held_out_loss(opened, ground.tokenizer, ground.texts.held_out, 48)

    assert made.about.losses is not None
    assert loss == pytest.approx(made.about.losses.exported, rel=1e-5)
    for name, term in read_peft(tmp_path / "out").items():
        shared, own = ground.shared[name].dense(), made.products[name].dense()
        np.testing.assert_allclose(term.dense(), shared + made.constants[name] * own, rtol=1e-4, atol=1e-6)


def test_without_a_gate_an_export_is_exact(ground: Ground):
    made = personalize(ground, dataclasses.replace(ABOUT, wish=Wish(rank=2, steps=3, gated=False)))
    mounted = mount(ground.model, made.beside(ground.shared))
    exported = logits(mounted)
    mounted.unload()

    with carrying(ground, made) as adapted:
        torch.testing.assert_close(exported, logits(adapted), rtol=1e-4, atol=1e-4)
    assert not made.gates
    assert made.about.losses is not None
    assert made.about.losses.exported == made.about.losses.both


def size(personal: Personal) -> float:
    return sum(term.norm() ** 2 for term in personal.products.values()) ** 0.5


def test_the_pull_is_to_the_shared_adapter(ground: Ground, made: Personal):
    """The harder the pull, the smaller what is added; also where training goes on from an earlier adapter."""
    pulled = [
        personalize(ground, dataclasses.replace(ABOUT, wish=dataclasses.replace(ABOUT.wish, proximal=mu)))
        for mu in (0.1, 10.0)
    ]
    on = dataclasses.replace(ABOUT, wish=dataclasses.replace(ABOUT.wish, proximal=10.0))
    further = personalize(ground, on, made)

    assert size(made) > size(pulled[0]) > size(pulled[1]) > 0
    assert size(further) < size(made)


def test_share_a_trains_b_alone_on_the_shared_rows(ground: Ground):
    wish = Wish(rank=2, steps=6, learning_rate=1e-2, share_a=True)
    about = dataclasses.replace(ABOUT, wish=wish)
    first = begun(ground, about)

    made = personalize(ground, about)

    for name, term in made.products.items():
        np.testing.assert_array_equal(term.a, first.products[name].a)
        np.testing.assert_allclose(term.a @ term.a.T, np.eye(2), atol=1e-5)
        span = np.linalg.svd(ground.shared[name].dense())[2][:3]
        np.testing.assert_allclose(term.a @ span.T @ span, term.a, atol=1e-4)
        assert np.abs(term.b).max() > 0
    assert made.about.losses is not None
    assert made.about.losses.both < made.about.losses.shared


def test_it_is_rebased_on_a_newer_version_and_says_what_that_did(ground: Ground, made: Personal):
    newer = {name: LowRank(term.b * 0.5, term.a) for name, term in ground.shared.items()}
    moved = dataclasses.replace(ground, shared=newer)
    about = dataclasses.replace(ABOUT, version=4)

    on = personalize(moved, about, made)

    before, after = on.about.before, on.about.losses
    assert before == measured(moved, made)
    assert after is not None
    assert before.shared == after.shared
    assert after.both < before.both
    assert on.about.version == 4


def test_stopping_keeps_nothing(ground: Ground):
    base = logits(ground.model)

    with pytest.raises(Interrupted):
        personalize(ground, ABOUT, on_step=lambda stride: Word.STOP if stride.done == 2 else Word.GO)
    assert torch.equal(logits(ground.model), base)


def test_steps_are_some_passes_over_the_text(ground: Ground):
    batches = ground.batches(0)
    long = dataclasses.replace(batches, samples=batches.samples * 80)
    tokens = sum(len(sample.ids) for sample in batches.samples)

    assert steps_of(Wish(steps=7), batches) == 7
    assert steps_of(Wish(), batches) == max(FEWEST, round(5 * tokens / 96))
    assert steps_of(Wish(), dataclasses.replace(batches, samples=batches.samples[:1])) == FEWEST
    assert steps_of(Wish(), long) == MOST


def test_one_for_another_base_is_refused(ground: Ground, made: Personal):
    right = dataclasses.replace(made, about=dataclasses.replace(made.about, base_digest="ab" * 32))
    fitting(right, ground.recipe)

    with pytest.raises(BadAdapter, match="another base model"):
        fitting(made, ground.recipe)


def test_gates_of_another_width_are_refused(ground: Ground):
    odd = {name: gate[:-1] for name, gate in gated().gates.items()}

    with (
        pytest.raises(BadAdapter, match="no gate that fits"),
        carrying(ground, dataclasses.replace(gated(), gates=odd)),
    ):
        pass
