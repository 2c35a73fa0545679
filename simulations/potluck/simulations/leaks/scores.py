"""How well an attack tells members from strangers."""

import numpy as np

from potluck.aggregation.errors import BadSetting
from potluck.aggregation.lowrank import Floats


def auc(members: Floats, strangers: Floats) -> float:
    """Return the chance that a member scores higher than a stranger, ties counted half: 0.5 is guessing.

    Raises:
        BadSetting: one of the two is empty.
    """
    if not len(members) or not len(strangers):
        raise BadSetting(f"{len(members)} members and {len(strangers)} strangers", fix="score some of both")
    ordered = np.sort(strangers)
    below = np.searchsorted(ordered, members, "left")
    not_above = np.searchsorted(ordered, members, "right")
    return float((below + not_above).mean() / 2 / len(strangers))


def found_at(members: Floats, strangers: Floats, false_alarms: float = 0.01) -> float:
    """Return the share of members found where at most the share *false_alarms* of strangers is taken for one.

    Source: the true-positive rate at a low false-positive rate, Carlini et al. 2022, arXiv:2112.03570, section 3.
    """
    allowed = int(false_alarms * len(strangers))
    threshold = np.sort(strangers)[::-1][allowed]
    return float((members > threshold).mean())


def calibrated(gains: Floats, shadows: Floats) -> Floats:
    """Return how unusual each record's gain is among updates that never saw it: (n,), (s, n) -> (n,).

    Source: the offline likelihood ratio of LiRA, Carlini et al. 2022, arXiv:2112.03570, section 5, with one deviation
    for all records, since there are few shadows.
    """
    centred = gains - shadows.mean(axis=0)
    spread = np.sqrt(((shadows - shadows.mean(axis=0)) ** 2).mean())
    result: Floats = centred / max(float(spread), 1e-12)
    return result
