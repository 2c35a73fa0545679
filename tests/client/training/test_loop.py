"""Training that learns, stops when told, and goes on as if it had never stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.client.readers import Part, Sample
from potluck.client.training import checkpoints
from potluck.client.training.adapters import attach, detach, factors
from potluck.client.training.bases import shapes
from potluck.client.training.batches import Batches, collate, make, tokenize
from potluck.client.training.errors import BadCheckpoint, TrainingDiverged
from potluck.client.training.loop import train
from potluck.client.training.losses import loss_sum
from potluck.client.work import Stride, Word
from potluck.wire.recipe import Adapter, Training
from tiny import random_adapter

SETTINGS = Adapter(rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
TRAINING = Training(steps=6, batch=2, learning_rate=1e-2, weight_decay=0.01, warmup_steps=2, checkpoint_steps=2)


class Killed(Exception):
    """The process is gone."""


@pytest.fixture
def batches(loaded) -> Batches:
    samples = [Sample((Part("", f"the {word} sat on the mat. " * 4, trained=True),)) for word in ("cat", "dog", "hen")]
    return make(samples, loaded[1], max_tokens=24, rows=2, seed=7)


@pytest.fixture
def model(loaded, base):
    sides = shapes(base.folder, SETTINGS.targets)
    start = random_adapter(sides, 2, seed=1, scale=2.0)
    tail = random_adapter(sides, 3, seed=2)
    fresh = loaded[0]

    def attached():
        nonlocal fresh
        adapted = attach(fresh, start, tail, SETTINGS)
        fresh = adapted.get_base_model()  # the same module: detached by the next call's caller
        return adapted

    return attached


def bits(model) -> dict[str, bytes]:
    return {name: term.b.tobytes() + term.a.tobytes() for name, term in factors(model, SETTINGS).items()}


def test_training_learns_and_reports_it(model, batches):
    told: list[Stride] = []

    def on_step(stride: Stride) -> Word:
        told.append(stride)
        return Word.GO

    ran = train(model(), batches, TRAINING.model_copy(update={"steps": 30, "learning_rate": 5e-2}), on_step=on_step)

    assert [stride.done for stride in told] == list(range(1, 31))
    assert told[0].total == 30
    assert told[-1].loss < told[0].loss - 0.5
    assert ran.steps == 30
    assert ran.tokens == 30 * 2 * 23  # a row of 24 tokens has 23 predictions
    assert ran.loss == pytest.approx(np.mean([stride.loss for stride in told]))


@pytest.mark.parametrize("word", [None, Word.SUSPEND], ids=["killed", "suspended"])
@pytest.mark.parametrize("at", range(1, 7))
def test_an_interrupted_run_ends_in_the_same_bits(model, batches, tmp_path: Path, at, word):
    """Killed or suspended after any step and started again: the same factors, the same report."""
    whole = model()
    expected_run = train(whole, batches, TRAINING)
    expected = bits(whole)
    detach(whole)

    def interrupt(stride: Stride) -> Word:
        if stride.done == at:
            if word is None:
                raise Killed
            return word
        return Word.GO

    first = model()
    if word is None:
        with pytest.raises(Killed):
            train(first, batches, TRAINING, folder=tmp_path, on_step=interrupt)
    else:
        assert (train(first, batches, TRAINING, folder=tmp_path, on_step=interrupt) is None) == (at < 6)
    detach(first)

    second = model()
    told: list[int] = []
    run = train(second, batches, TRAINING, folder=tmp_path, on_step=lambda s: (told.append(s.done), Word.GO)[1])

    assert bits(second) == expected
    assert run == expected_run
    first_left = at + 1 if word else (at - 1) // 2 * 2 + 1  # after a kill, from the last checkpoint
    assert told == list(range(first_left, 7))


def test_a_finished_job_returns_its_result_again_without_a_step(model, batches, tmp_path: Path):
    """The program may be killed between the last step and the outbox."""
    first = model()
    ran = train(first, batches, TRAINING, folder=tmp_path)
    expected = bits(first)
    detach(first)

    second = model()
    again = train(second, batches, TRAINING, folder=tmp_path, on_step=lambda _: pytest.fail("a step was taken"))

    assert again == ran
    assert bits(second) == expected


def test_stop_ends_at_once(model, batches, tmp_path: Path):
    assert train(model(), batches, TRAINING, folder=tmp_path, on_step=lambda _: Word.STOP) is None
    assert not list(tmp_path.iterdir())


def test_another_jobs_checkpoint_is_not_gone_on_from(model, batches, tmp_path: Path):
    """Other settings, another seed or another start: training begins at the beginning."""
    first = model()
    train(first, batches, TRAINING, folder=tmp_path)
    detach(first)
    told: list[int] = []

    other = TRAINING.model_copy(update={"learning_rate": 2e-2})
    train(model(), batches, other, folder=tmp_path, on_step=lambda s: (told.append(s.done), Word.GO)[1])

    assert told == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_named(model, batches, tmp_path: Path):
    first = model()
    train(first, batches, TRAINING, folder=tmp_path)
    detach(first)
    path = tmp_path / checkpoints.NAME
    path.write_bytes(path.read_bytes()[:-7])

    with pytest.raises(BadCheckpoint, match="is damaged") as caught:
        train(model(), batches, TRAINING, folder=tmp_path)
    assert "delete it" in caught.value.__notes__[0]


def test_a_loss_that_is_not_finite_is_an_error_with_advice(model, batches):
    adapted = model()
    with torch.no_grad():
        next(p for p in adapted.parameters() if p.requires_grad).fill_(float("inf"))

    with pytest.raises(TrainingDiverged, match="the loss is nan at step 1 of 6") as caught:
        train(adapted, batches, TRAINING)
    assert "learning_rate" in caught.value.__notes__[0]
    assert not adapted.training


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=300), min_size=1, max_size=4))
def test_the_loss_in_chunks_is_the_plain_one(shared, texts):
    """Value and gradient, where the labels fill less than one chunk and where they fill several."""
    model, tokenizer = shared
    samples = [tokenize(Sample((Part("", text, trained=True),)), tokenizer) for text in texts]
    batch = collate([samples], pad_id=0)
    results = []
    for head in (True, False):
        hidden = model.model.embed_tokens.weight.detach().clone().requires_grad_()
        embedded = torch.nn.functional.embedding(batch.ids, hidden)
        if head:
            found = _through_our_head(model, embedded, batch)
        else:
            logits = model(inputs_embeds=embedded, position_ids=batch.positions, use_cache=False).logits
            found = torch.nn.functional.cross_entropy(logits[0], batch.labels[0], reduction="sum")
        found.backward()
        results.append((found.detach(), hidden.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-4)


def _through_our_head(model, embedded, batch):
    class Fed(torch.nn.Module):
        """The model, fed with embeddings that have a gradient."""

        config, base_model_prefix = model.config, "inner"

        def get_output_embeddings(self):
            return model.get_output_embeddings()

        def inner(self, **inputs):
            return model.model(inputs_embeds=embedded, position_ids=inputs["position_ids"], use_cache=False)

    return loss_sum(Fed(), batch)
