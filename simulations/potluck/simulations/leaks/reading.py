"""What the attacker computes with the base model: words' vectors, whole texts, and losses of single records.

Models here are like Llama: a norm before attention, positions inside it, a norm before the head.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from potluck.aggregation import LowRank
from potluck.aggregation.lowrank import Array, Floats
from potluck.client.training.adapters import detach, mount
from potluck.client.training.batches import Tokens, collate
from potluck.client.training.losses import loss_sum
from potluck.client.training.private_gradients import checked_engine
from potluck.simulations.leaks.updates import Scene, Update, short
from potluck.simulations.leaks.words import explained, went_in

TOGETHER: Final = 32  # records whose gradients are computed at one time
SURE: Final = 0.999  # a vector that lies in the span but for rounding


def entering(model: Any) -> Array:  # noqa: ANN401 - transformers is untyped
    """Return what enters the first attention for every word: (V, k)."""
    vectors: Array = model.model.layers[0].input_layernorm(model.get_input_embeddings().weight).detach().numpy()
    return vectors


def returning(model: Any) -> Array:  # noqa: ANN401
    """Return what, nearly, comes back below the last norm where a word should have been predicted: (V, d).

    The head's row for the word, less the mean row: what is predicted instead of it is about the mean.
    """
    weights: Array = (model.get_output_embeddings().weight * model.model.norm.weight).detach().numpy()
    centred: Array = weights - weights.mean(axis=0)
    return centred


def text(scene: Scene, update: Update, words: Sequence[int], longest: int) -> list[int]:
    """Return the row whose every beginning leads to what entered the layers after the first, word by word.

    What a word becomes in a later layer depends on the words before it and on none after it, so a beginning can be
    checked by itself.  Ends where no further word of *words* fits, or after *longest*.

    Source: DAGER for decoders, Petrov et al. 2024, arXiv:2405.15586, section 4.3, Algorithm 2, with one beginning
    kept.
    """
    found: list[int] = []
    with scene.lent() as adapted:
        adapted.requires_grad_(requires_grad=False)
        layers = adapted.get_base_model().model.layers
        seen = [went_in(update, number) for number in range(1, len(layers))]
        while len(found) < longest:
            rows = [[Tokens((*found, word), (True,) * (len(found) + 1))] for word in words]
            batch = collate(rows, pad_id=0)
            states = adapted(input_ids=batch.ids, position_ids=batch.positions, output_hidden_states=True).hidden_states
            fits = np.min(
                [
                    explained(rows, layer.input_layernorm(state[:, -1]).numpy())
                    for rows, layer, state in zip(seen, layers[1:], states[1:], strict=False)
                ],
                axis=0,
            )
            if fits.max() < SURE:
                break
            found.append(_next(found, words, fits))
    return found


def _next(found: Sequence[int], words: Sequence[int], fits: Floats) -> int:
    """Return the word that fits best.

    A beginning of one word said over and over is, to attention, that word said once: it always fits.  So another word
    that fits goes first.
    """
    others = np.array([fit * (set(found) != {word}) for word, fit in zip(words, fits, strict=True)])
    return words[int(np.argmax(others if others.max() >= SURE else fits))]


def losses(model: Any, rows: Sequence[Tokens], adapter: dict[str, LowRank] | None = None) -> Floats:  # noqa: ANN401
    """Return the mean loss of each of *rows* under the base model, or with *adapter* on it, in nats per token."""
    used = model if adapter is None else mount(model, adapter)
    result = []
    for row in rows:
        batch = collate([[row]], pad_id=0)
        result.append(float(loss_sum(used, batch)) / batch.trained_tokens)
    if adapter is not None:
        detach(used)
    return np.array(result)


def gradients(scene: Scene, rows: Sequence[Tokens]) -> Array:
    """Return every row's gradient at the round's start, of its own mean loss: (n, all numbers of an update)."""
    with scene.lent() as adapted:
        parts = []
        for start in range(0, len(rows), TOGETHER):
            batch = collate([[row] for row in rows[start : start + TOGETHER]], pad_id=0)
            each, _ = checked_engine(adapted, batch)(adapted, batch)
            named = {short(name): value.flatten(1).numpy() for name, value in each.items()}
            parts.append(np.concatenate([named[name] for name in sorted(named)], axis=1))
    return np.concatenate(parts)


def shares(update: Update, each: Array, ridge: float = 1e-3) -> Floats:
    """Return how much of each gradient is in *update*, found for all of them together: (n,).

    Least squares of the update, downhill, on the candidates' gradients, with a little *ridge* against noise.  So what
    all records have in common, which is most of a gradient, says nothing for any of them.
    """
    step = -np.concatenate([update[name].ravel() for name in sorted(update)]).astype(np.float64)
    inner = (each @ each.T).astype(np.float64)
    inner += ridge * np.trace(inner) / len(each) * np.eye(len(each))
    return np.asarray(np.linalg.solve(inner, each @ step), np.float64)
