"""Canaries put into a private step of the engine that volunteers run, and looked for in what it lets out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.lowrank import Array, Floats
from potluck.client.training.adapters import trained_parameters
from potluck.client.training.batches import Tokens
from potluck.client.training.private import Privately, clipped_sum, put_gradient
from potluck.client.training.private_gradients import checked_engine
from potluck.client.training.private_records import Records
from potluck.simulations.leaks.updates import Scene


@final
@dataclass(frozen=True, slots=True)
class Canaries:
    """Records whose being there or not is what the auditor guesses; a fair coin decided each."""

    rows: Sequence[Tokens]
    put_in: NDArray[np.bool_]


def audited(scene: Scene, how: Privately, canaries: Canaries, each: Array) -> Floats:
    """Return a score for each canary, higher where it was put in: (n,).  *each* are their gradients, (n, all numbers).

    One step of *how* is taken on the canaries put in, with the real clipping, drawing and noise; the auditor sees the
    noised gradient itself, which is more than an update shows, and asks how much of each canary's clipped gradient is
    in it, all of them together: the best linear guess at fair coins, under the noise there is.
    """
    present = tuple(row for row, inside in zip(canaries.rows, canaries.put_in, strict=True) if inside)
    played = replace(how, records=Records(present, 0))
    with scene.lent() as adapted:
        parameters = trained_parameters(adapted)
        engine = checked_engine(adapted, played.records.batch(range(min(2, len(present)))))
        total, _ = clipped_sum(adapted, played, played.drawn(0), engine)
        put_gradient(parameters, total, played, 0)
        names = sorted(parameters)
        seen = np.concatenate([parameters[name].grad.numpy().ravel() for name in names]) * played.spending.batch
    each = each * np.minimum(1, how.clip / np.linalg.norm(each, axis=1, keepdims=True))
    inner = (each @ each.T).astype(np.float64)
    ridge = 4 * (how.spending.noise * how.clip) ** 2 + 1e-6 * np.trace(inner) / len(each)
    inner += ridge * np.eye(len(each))
    scores: Floats = np.linalg.solve(inner, each @ (seen - each.sum(axis=0) / 2))
    return scores
