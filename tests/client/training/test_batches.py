"""Packing without waste and without one sample seeing another, and batches that depend on nothing but their number."""

from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potluck.client.readers import Part, Sample
from potluck.client.training.batches import IGNORED, Batches, Tokens, collate, laid_out, make, pack, tokenize
from potluck.client.training.errors import NoBatches
from potluck.client.training.losses import loss_sum

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def plain(text: str) -> Sample:
    return Sample((Part("", text, trained=True),))


def pair(prompt: str, completion: str) -> Sample:
    return Sample((Part("", prompt, trained=False), Part("", completion, trained=True)))


def text_tokens(sizes) -> list[Tokens]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [Tokens(tuple(range(s, s + n)), (True,) * n) for s, n in zip(starts, sizes, strict=True)]


def pair_tokens(sizes) -> list[Tokens]:
    return [Tokens(sample.ids, (False, *sample.trained[1:])) for sample in text_tokens(sizes)]


def learned(sample: Tokens, tokenizer) -> str:
    return tokenizer.decode([i for i, t in zip(sample.ids, sample.trained, strict=True) if t])


@given(lengths)
def test_text_fills_every_row(sizes):
    """All tokens in their order, all rows full; what does not fill a row waits for another epoch."""
    total = sum(sizes)

    rows = pack(text_tokens(sizes), 16)

    flat = [token for row in rows for sample in row for token in sample.ids]
    assert flat == list(range(total if total < 16 else total - total % 16))


@given(lengths)
def test_a_sample_with_a_prompt_stays_whole_and_none_is_lost(sizes):
    samples = pair_tokens(sizes)

    rows = pack(samples, 16)

    assert all(sum(len(sample.ids) for sample in row) <= 16 for row in rows)
    kept = sorted(sample.ids for row in rows for sample in row)
    assert kept == sorted(sample.ids[-16:] for sample in samples)
    assert all(sum(map(len, (s.ids for r in two for s in r))) > 16 for two in pairwise(rows))


def test_long_text_beside_prompts_is_cut_not_lost():
    rows = pack([*pair_tokens([5]), Tokens(tuple(range(100, 140)), (True,) * 40)], 16)

    assert sorted(token for row in rows for sample in row for token in sample.ids) == [*range(5), *range(100, 140)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_packed_row_computes_what_its_samples_compute_alone(loaded, dtype):
    """The proof that nothing leaks: logits and loss equal those of one sample at a time."""
    model, tokenizer = loaded
    model = model.to(dtype)
    texts = [
        ("one", " two"),
        ("a longer prompt", " answer"),
        ("x", "y"),
        ("p", " the other row, longer than the first"),
    ]
    samples = [tokenize(pair(*text), tokenizer) for text in texts]
    batch = collate([samples[:3], samples[3:]], pad_id=0)
    assert batch.ids.shape == (2, 39)  # the longest row, not some maximum

    logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
    together = loss_sum(model, batch)

    alone, start = torch.zeros((), dtype=dtype), [0, 0]
    for row, sample in zip((0, 0, 0, 1), samples, strict=True):
        ids = torch.tensor([sample.ids])
        own = model(input_ids=ids, use_cache=False).logits[0]
        end = start[row] + ids.shape[1]
        torch.testing.assert_close(logits[row, start[row] : end], own, atol=1e-5, rtol=1e-5)
        start[row] = end
        targets = torch.where(torch.tensor(sample.trained), ids[0], IGNORED)[1:]
        alone += torch.nn.functional.cross_entropy(own[:-1], targets, reduction="sum")
    torch.testing.assert_close(together.to(dtype), alone, atol=1e-4, rtol=1e-5)


def test_samples_of_a_long_row_lie_where_they_cost_less(loaded):
    """In rows of twice the longest here; the loss is that of the rows as they were, and one sample a row stays."""
    model, tokenizer = loaded
    model = model.to(torch.float64)
    samples = [tokenize(pair("a" * (5 + i % 7), "b" * (1 + i % 3)), tokenizer) for i in range(40)]
    rows = pack(samples, 512)

    laid = laid_out(rows)

    assert [len(row) for row in rows] == [40]
    assert {sample for row in laid for sample in row} == set(samples)
    assert sum(len(row) for row in laid) == 40
    longest = max(len(sample.ids) for sample in samples)
    assert max(sum(len(sample.ids) for sample in row) for row in laid) <= 2 * longest
    one, other = (float(loss_sum(model, collate(each, pad_id=0))) for each in (rows, laid))
    assert one == pytest.approx(other, rel=1e-6)
    alone = [[sample] for sample in samples[:3]]
    assert laid_out(alone) is alone


def test_only_completions_and_the_end_are_learned(loaded):
    _, tokenizer = loaded

    assert learned(tokenize(pair("question?", " answer"), tokenizer), tokenizer) == " answer</s>"
    assert learned(tokenize(plain("all of it"), tokenizer), tokenizer) == "all of it</s>"


def test_of_a_chat_only_what_the_assistant_wrote_is_learned(loaded):
    """The system turn that the template makes up, headings and user turns are context; the end of a turn is learned."""
    _, tokenizer = loaded
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "farewell")]
    chat = Sample(tuple(Part(role, text, trained=role == "assistant") for role, text in turns))

    tokens = tokenize(chat, tokenizer)

    assert tokenizer.decode(tokens.ids) == (
        "[system]be kind\n[user]hi</s>[assistant]hello</s>[user]bye</s>[assistant]farewell</s>"
    )
    assert learned(tokens, tokenizer) == "hello</s>farewell</s>"


def test_a_chat_without_a_template_still_reads_as_one(loaded):
    _, tokenizer = loaded
    tokenizer.chat_template = None
    chat = Sample((Part("user", "hi", trained=False), Part("assistant", "hello", trained=True)))

    tokens = tokenize(chat, tokenizer)

    assert tokenizer.decode(tokens.ids) == "user: hi\nassistant: hello\n</s>"
    assert learned(tokens, tokenizer) == "assistant: hello\n</s>"


@given(st.integers(0, 12), st.integers(0, 3), lengths)
def test_batch_number_i_is_the_same_however_one_gets_there(step, seed, sizes):
    """So a client killed at step i goes on with the very batch it would have had."""
    batches = Batches(tuple(text_tokens(sizes)), 16, 3, seed, 0)

    from_start = next(islice(batches.after(0), step, None))
    resumed = next(batches.after(step))

    assert torch.equal(from_start.ids, resumed.ids)
    assert torch.equal(from_start.labels, resumed.labels)
    assert torch.equal(from_start.positions, resumed.positions)


def test_every_epoch_and_every_seed_has_its_own_order():
    samples = tuple(pair_tokens([16] * 8))
    first = [row for batch in islice(Batches(samples, 16, 4, 1, 0).after(0), 4) for row in batch.ids.tolist()]
    other = [row for batch in islice(Batches(samples, 16, 4, 2, 0).after(0), 2) for row in batch.ids.tolist()]

    assert sorted(first[:8]) == sorted(first[8:]) == sorted(other)
    assert first[:8] != first[8:]
    assert first[:8] != other


def test_nothing_to_learn_is_an_error(loaded):
    _, tokenizer = loaded
    with pytest.raises(NoBatches, match="1 samples give nothing to learn in rows of 1 tokens"):
        make([plain("text")], tokenizer, max_tokens=1, rows=2, seed=0)
