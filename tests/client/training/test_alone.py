"""One client's steps by hand: the numbers of transformers and PEFT, for fewer places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.aggregation import Start, start
from potluck.client.readers import Part, Sample
from potluck.client.training.adapters import attach, trained_parameters
from potluck.client.training.bases import Base, load, shapes
from potluck.client.training.batches import IGNORED, Batch, collate, pack, tokenize
from potluck.client.training.losses import loss_sum
from potluck.client.training.together.alone import by_hand
from potluck.client.training.together.places import Grids, Places
from potluck.client.training.together.resident import exact
from potluck.wire.recipe import Adapter
from tiny import random_adapter

CPU = torch.device("cpu")
ADAPTER = Adapter(rank=2, alpha=4.0, targets=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"))


def begun(base: Base, init: str = "continue") -> Start:
    """Return a start with a tail, all of it large enough to be seen."""
    modules = shapes(base.folder, ADAPTER.targets)
    return start(random_adapter(modules, 5, seed=1), modules, init=init, rank=2, scale=2.0, seed=0)


def adapted(base: Base, moves: str = "both", dtype: torch.dtype = torch.float64):
    """Return (model with adapters, tokenizer)."""
    model, tokenizer = load(base, CPU, dtype)
    if dtype is torch.float64:
        exact(model)
    began = begun(base)
    return attach(model, began.trainable, began.tail, ADAPTER, moves), tokenizer


def prompts(tokenizer) -> Batch:
    """Return rows of several samples each, of which little is learned, with padding behind them."""
    pairs = [
        Sample((Part("", "?" * (1 + 5 * (i % 7)), trained=False), Part("", "yes" * (i % 4) + "no", trained=True)))
        for i in range(11)
    ]
    return collate(pack([tokenize(pair, tokenizer) for pair in pairs], 60), pad_id=0)


def text(tokenizer) -> Batch:
    """Return two full rows of one sequence each."""
    whole = Sample((Part("", "what a cat says to another cat " * 4, trained=True),))
    return collate(pack([tokenize(whole, tokenizer)], 40)[:2], pad_id=0)


def by_peft(model, batch: Batch) -> torch.Tensor:
    """Return the loss that transformers and PEFT compute: whoever watches a module gets them."""
    hook = model.get_base_model().model.norm.register_forward_hook(lambda *_: None)
    try:
        assert by_hand(model) is None
        return loss_sum(model, batch)
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", [prompts, text])
@pytest.mark.parametrize("moves", ["both", "a", "b"])
def test_by_hand_and_by_peft_the_same_loss_and_gradients(base: Base, moves, kind):
    model, tokenizer = adapted(base, moves)
    batch, parameters = kind(tokenizer), trained_parameters(model)
    assert by_hand(model) is not None

    found, expected = (
        (float(loss.detach()), torch.autograd.grad(loss, list(parameters.values())))
        for loss in (loss_sum(model, batch), by_peft(model, batch))
    )

    assert found[0] == pytest.approx(expected[0], rel=1e-6)  # the sum of losses is float32
    for slope, right in zip(found[1], expected[1], strict=True):
        assert (slope - right).abs().max() <= 1e-6 * right.abs().max()
        assert right.abs().max() > 0


def test_without_its_adapters_a_model_is_the_base(base: Base):
    model, tokenizer = adapted(base)
    batch = prompts(tokenizer)

    with torch.inference_mode(), model.disable_adapter():
        bare, right = float(loss_sum(model, batch)), float(by_peft(model, batch))
    with torch.inference_mode():
        whole = float(loss_sum(model, batch))

    assert bare == pytest.approx(right, rel=1e-6)
    assert bare != pytest.approx(whole, rel=1e-4)


def test_what_is_no_plain_adapter_in_full_precision_is_left_to_peft(base: Base):
    half, _ = adapted(base, dtype=torch.bfloat16)
    dropping, _ = adapted(base)
    for module in dropping.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["trained"] = torch.nn.Dropout(0.1)
    two, _ = adapted(base)
    for name, parameter in two.named_parameters():
        parameter.requires_grad_("lora_" in name)  # the tail as well

    assert [by_hand(model) for model in (half, dropping, two)] == [None] * 3


def test_only_places_that_a_label_looks_back_on_are_computed():
    """Six of twelve: not what follows a sequence's last label, not a sequence without one, not the padding."""
    no = IGNORED
    batch = Batch(
        ids=torch.arange(12).view(2, 6),
        positions=torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]]),
        labels=torch.tensor([[no, 7, no, no, no, no], [no, 8, no, 9, no, no]]),
    )

    alone, two = Places.of(batch, 1), Places.of(batch, 2)

    assert alone.ids.tolist() == [0, 1, 6, 7, 8, 9]
    assert alone.labels.tolist() == [7, 8, 9]
    assert alone.rows.tolist() == [0, 1, 1]
    assert two.ids.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]  # the first client is filled up to the second's four
    assert two.labels.tolist() == [no, 7, 8, 9]


def test_a_batch_without_a_label_costs_one_place_and_has_no_loss(base: Base):
    model, _ = adapted(base)
    batch = Batch(torch.zeros((2, 9), dtype=torch.int64), torch.full((2, 9), IGNORED), torch.arange(9).repeat(2, 1))

    assert len(Places.of(batch, 1).ids) == 1
    assert float(loss_sum(model, batch).detach()) == 0.0


@given(st.lists(st.integers(1, 90), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_every_sequence_stands_in_a_row_of_its_own(lengths):
    positions = torch.cat([torch.arange(length) for length in lengths])
    places = torch.arange(len(positions))
    grids = Grids.of(positions)

    cells = grids.spread(places)

    assert len(cells) == sum(rows * length for rows, length in grids.shapes)
    assert torch.equal(grids.gathered(cells), places)
    assert sum(rows for rows, _ in grids.shapes) == len(lengths)
    begins = {int(place) for place in places[positions == 0]}
    pieces = cells.split([rows * length for rows, length in grids.shapes])
    firsts = [int(row[0]) for piece, shape in zip(pieces, grids.shapes, strict=True) for row in piece.view(shape)]
    assert sorted(firsts) == sorted(begins)
    assert len(cells) <= sum(max(length / 0.75, 22) for length in lengths)
