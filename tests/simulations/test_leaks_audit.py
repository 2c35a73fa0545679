"""The audit: the engine as it is hides what it claims to hide, and one whose noise or clip is off is caught."""

import math
from dataclasses import replace

import numpy as np
import pytest

from leaking import DELTA, lab, privately, strings
from potluck.aggregation.errors import BadSetting
from potluck.client.accounting import epsilon
from potluck.client.training.private import Privately
from potluck.simulations.leaks.audit import Guesses, at_least, guessed, p_value
from potluck.simulations.leaks.auditing import Canaries, audited
from potluck.simulations.leaks.reading import gradients
from potluck.wire.recipe import Training

CANARIES = 100
GUESSES = 80


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """(scene, how a step that claims ε = 1 is taken, canaries, their gradients)."""
    ground = lab(tmp_path_factory.mktemp("audit"), size=0.3)
    rows = strings(CANARIES, 12, seed=9)
    coins = np.random.default_rng(4).random(CANARIES) < 0.5
    how = privately(rows, 1.0, Training(steps=1, batch=CANARIES, learning_rate=1e-3), clip=0.05)
    return ground.one, how, Canaries(rows, coins), gradients(ground.one, rows)


def found(stage, how: Privately) -> float:
    """Return the ε below which *how* is not."""
    scene, _, canaries, each = stage
    return at_least(guessed(audited(scene, how, canaries, each), canaries.put_in, GUESSES), DELTA)


def test_the_engine_hides_what_it_claims_to_hide(stage):
    claimed = epsilon((stage[1].spending,), DELTA)

    assert claimed == pytest.approx(1.0, abs=0.01)
    assert found(stage, stage[1]) <= claimed


def test_an_engine_without_noise_is_caught(stage):
    """The control: an audit that catches nothing proves nothing."""
    how = stage[1]
    assert found(stage, replace(how, spending=replace(how.spending, noise=0.0))) > 2.0


def test_an_engine_without_a_clip_is_caught(stage):
    """As much noise as the claim asks for, and gradients as long as they come."""
    how = stage[1]
    unclipped = replace(how, clip=how.clip * 1e3, spending=replace(how.spending, noise=how.spending.noise / 1e3))

    assert found(stage, unclipped) > 1.5


def test_all_right_rules_out_as_much_as_the_number_of_guesses_allows():
    """At ε a truthful coin is right with chance e^ε/(1 + e^ε); 100 times in a row: 0.05 at ε = 3.49."""
    truth = 0.05 ** (1 / 100)

    assert at_least(Guesses(100, 100, 100), 0.0) == pytest.approx(math.log(truth / (1 - truth)), abs=2e-3)
    assert at_least(Guesses(100, 100, 50), 0.0) == 0.0
    assert at_least(Guesses(100, 4, 4), 0.0) == 0.0  # four in a row happen by chance


def test_the_chance_of_as_many_right_guesses():
    """Worked by hand: of two fair coins both are right once in four; delta adds 2 m times the worst mean chance."""
    assert p_value(Guesses(10, 2, 2), 0.0, 0.0) == pytest.approx(0.25)
    assert p_value(Guesses(10, 2, 2), 0.0, 1e-3) == pytest.approx(0.25 + 2 * 10 * 1e-3 * 0.5)
    assert p_value(Guesses(10, 0, 0), 1.0, 0.1) == 1.0
    with pytest.raises(BadSetting):
        Guesses(10, 2, 3)


def test_the_auditor_guesses_at_both_ends():
    scores = np.array([0.1, 5.0, -3.0, 0.2, 4.0, -2.0])
    put_in = np.array([True, True, False, False, False, False])

    assert guessed(scores, put_in, 4) == Guesses(6, 4, 3)
