"""The loss on held-out text, what a model replies, and with and without its adapter."""

import pytest
import torch

from potluck.client.readers import Part, Sample
from potluck.client.training.adapters import mount
from potluck.client.training.bases import shapes
from potluck.client.training.errors import BadAdapter, NoBatches
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.generate import Sampling, reply
from tiny import random_adapter

TEXT = Sample((Part("", "To be, or not to be, that is the question.", trained=True),))
PAIR = Sample((Part("", "a question? ", trained=False), Part("", "an answer", trained=True)))
HELLO = (Part("user", "hello", trained=False),)
WARM = Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)


@pytest.fixture
def adapted(loaded, base):
    sides = shapes(base.folder, ["q_proj", "up_proj"])
    return mount(loaded[0], random_adapter(sides, 4, seed=3))


def test_the_loss_is_the_mean_over_tokens_that_count(shared):
    """Compared with one sample at a time through the model's own head."""
    model, tokenizer = shared
    ids = torch.tensor([tokenizer("a question? an answer")["input_ids"]])  # ends in </s>
    logits = model(ids).logits[0]
    prompt = len("a question? ")
    expected = torch.nn.functional.cross_entropy(logits[prompt - 1 : -1], ids[0, prompt:])

    loss, tokens = held_out_loss(model, tokenizer, [PAIR] * 9, 64)

    assert tokens == 9 * (len("an answer") + 1)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_rows_that_are_not_full_count_and_a_limit_holds(shared):
    model, tokenizer = shared
    size = len(TEXT.text) + 1

    _, everything = held_out_loss(model, tokenizer, [TEXT], 10)
    _, limited = held_out_loss(model, tokenizer, [TEXT], 10, max_rows=2)

    assert everything == size - 5  # five rows, and nothing predicts the first token of a row
    assert limited == 18


def test_no_token_to_predict_is_an_error(shared):
    model, tokenizer = shared
    with pytest.raises(NoBatches, match="1 held-out samples hold no token"):
        held_out_loss(model, tokenizer, [Sample((Part("", "", trained=True),))], 16)


def test_without_adapters_the_base_answers(adapted, shared):
    """So one model in memory gives both columns of a comparison."""
    tokenizer = shared[1]
    base_loss = held_out_loss(*shared, [TEXT], 32)

    assert held_out_loss(adapted, tokenizer, [TEXT], 32, adapters=False) == pytest.approx(base_loss)
    assert held_out_loss(adapted, tokenizer, [TEXT], 32)[0] != pytest.approx(base_loss[0], abs=1e-3)
    assert reply(adapted, tokenizer, HELLO, WARM, adapters=False) == reply(*shared, HELLO, WARM)
    assert reply(adapted, tokenizer, HELLO, WARM) != reply(*shared, HELLO, WARM)


def test_a_reply_is_drawn_with_its_seed_and_leaves_other_draws_alone(shared):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)

    first = reply(*shared, HELLO, WARM)

    assert torch.equal(torch.rand(1), expected)
    assert first == reply(*shared, HELLO, WARM)
    assert first != reply(*shared, HELLO, Sampling(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=2))


def test_words_are_handed_on_as_they_come(shared):
    heard: list[str] = []

    whole = reply(*shared, HELLO, Sampling(max_new_tokens=20, temperature=1.0, seed=3), on_text=heard.append)

    assert "".join(heard).strip() == whole.strip()


def test_an_empty_adapter_cannot_be_mounted(shared):
    with pytest.raises(BadAdapter, match="the adapter is empty"):
        mount(shared[0], {})
