"""A frozen base with many adapters on it: by hand and by hooks the same, and how many of them fit."""

import json

import pytest
import torch

from potluck.aggregation import start
from potluck.aggregation.errors import UnknownName
from potluck.client.readers import Part, Sample
from potluck.client.training.bases import Base, load
from potluck.client.training.batches import Batch, collate, pack, tokenize
from potluck.client.training.completing import completed
from potluck.client.training.together.batched import network
from potluck.client.training.together.llama import Llama, understood
from potluck.client.training.together.networks import Hooked
from potluck.client.training.together.resident import exact, resident
from potluck.client.training.together.room import room
from potluck.client.training.together.stack import Stack, stacked
from potluck.wire.recipe import Recipe
from tiny import random_adapter

CPU = torch.device("cpu")
TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
CLIENTS = 3


@pytest.fixture(scope="module")
def recipe(base: Base) -> Recipe:
    settings = {
        "run": {"name": "networks"},
        "model": {"base": str(base.folder)},
        "adapter": {"rank": 2, "alpha": 4.0, "targets": TARGETS},
        "data": {"max_tokens": 32},
        "training": {"batch": 2},
    }
    return completed(Recipe.parse(json.dumps(settings)), base.folder.parent / "cache")


def rows(tokenizer, *, packed: bool) -> Batch:
    """Return two rows a client, either each of one sequence or of several of different length, and unlike in length."""
    if not packed:
        text = Sample((Part("", "what a cat says to another cat in the dark " * 6, trained=True),))
        return collate(pack([tokenize(text, tokenizer)], 40)[: 2 * CLIENTS], pad_id=0)
    pairs = [
        Sample((Part("", "?" * (1 + i % 7), trained=False), Part("", "yes" * (i % 4) + "no", trained=True)))
        for i in range(24)
    ]
    return collate(pack([tokenize(pair, tokenizer) for pair in pairs], 40)[: 2 * CLIENTS], pad_id=0)


def stack(recipe: Recipe, ranks: tuple[int, ...]) -> Stack:
    """Return clients whose factors are all large, so that each gradient says something."""
    published = random_adapter(recipe.modules(), 9, seed=1)
    starts = {
        rank: start(published, recipe.modules(), init="continue", rank=rank, scale=4 / rank, seed=0) for rank in ranks
    }
    return stacked([starts[rank] for rank in ranks], "both", torch.float64, CPU)


@pytest.mark.parametrize("kind", ["whole", "packed"])
@pytest.mark.parametrize("ranks", [(2, 2, 2), (4, 1, 2)], ids=["one tail", "a tail each"])
def test_by_hand_and_by_hooks_the_same_losses_and_gradients(base: Base, recipe: Recipe, ranks, kind: str):
    """Autograd through transformers' own code says what the backward passes written out must give."""
    model, tokenizer = load(base, CPU, torch.float64)
    exact(model)
    batch, adapters = rows(tokenizer, packed=kind == "packed"), stack(recipe, ranks)
    found = []
    for one in (Llama(model), Hooked(model, recipe.modules())):
        leaves = adapters.leaves(CLIENTS)
        losses = one.losses(batch, adapters.parts(leaves, CLIENTS))
        found.append((losses.detach(), torch.autograd.grad(losses.sum(), leaves)))

    (losses, slopes), (expected, known) = found

    assert (batch.positions != torch.arange(batch.positions.shape[1])).any() == (kind == "packed")
    assert losses.shape == (2 * CLIENTS,)
    assert torch.allclose(losses, expected, rtol=1e-6)
    for slope, right in zip(slopes, known, strict=True):
        assert (slope - right).abs().max() <= 1e-6 * right.abs().max()
        assert right.abs().max() > 0


def test_a_loss_moves_its_own_clients_factors_only(base: Base, recipe: Recipe):
    model, tokenizer = load(base, CPU, torch.float64)
    adapters = stack(recipe, (2, 2, 2))
    leaves = adapters.leaves(CLIENTS)
    losses = Llama(model).losses(rows(tokenizer, packed=False), adapters.parts(leaves, CLIENTS))

    slopes = torch.autograd.grad(losses[2] + losses[3], leaves)

    assert all(slope[1].abs().max() > 0 and not slope[0].any() and not slope[2].any() for slope in slopes)


def test_padded_columns_never_get_a_gradient(base: Base, recipe: Recipe):
    """So no optimiser can move them, and a client of small rank stays of small rank."""
    model, tokenizer = load(base, CPU, torch.float64)
    adapters = stack(recipe, (4, 1, 2))
    leaves = adapters.leaves(CLIENTS)
    losses = Llama(model).losses(rows(tokenizer, packed=False), adapters.parts(leaves, CLIENTS))

    slopes = torch.autograd.grad(losses.sum(), leaves)

    for slot, slope in zip(adapters.slots, slopes, strict=True):
        padding = slope[1][:, 1:] if slot.suffix == ".lora_B" else slope[1][1:]
        assert not padding.any()
        assert slope[0].abs().min() > 0


def test_llamas_in_full_precision_are_done_by_hand_and_all_others_by_hooks(base: Base, recipe: Recipe):
    whole, half = (load(base, CPU, dtype)[0] for dtype in (torch.float32, torch.bfloat16))

    assert isinstance(network(whole, recipe.modules()), Llama)
    assert isinstance(network(half, recipe.modules()), Hooked)
    assert not understood(whole, ["lm_head"])


def test_the_room_shrinks_with_what_a_client_needs(base: Base, recipe: Recipe):
    """And is the same on every call, since who shares a batch changes rounding."""
    longer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens": 512})})
    longest = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens": 100_000})})
    few, fewer, one = (resident(r, base.folder.parent / "cache", "float32", print) for r in (recipe, longer, longest))

    assert room(few, 2) == room(few, 2) == 32  # 2,048 tokens, 64 a client
    assert room(fewer, 2) == 2
    assert room(one, 256) == 1


def test_a_number_format_that_is_none_is_refused(base: Base, recipe: Recipe):
    with pytest.raises(UnknownName, match="float23"):
        resident(recipe, base.folder.parent / "cache", "float23", print)
