"""Whether an update tells who was in its data: exactly after one step, hardly under privacy or in a sum."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from leaking import Lab, batches, lab, privately, strings
from potluck.aggregation.errors import BadSetting
from potluck.simulations.leaks.reading import gradients, losses, shares
from potluck.simulations.leaks.scores import auc, calibrated, found_at
from potluck.simulations.leaks.updates import applied, gradient, plain, private, summed
from potluck.wire.recipe import Training

MEMBERS = 48
ONCE = Training(steps=1, batch=MEMBERS, learning_rate=2e-3)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Lab:
    return lab(tmp_path_factory.mktemp("leaks"), size=0.3)


@pytest.fixture(scope="module")
def people() -> list[list]:
    """Records that nobody can guess, dealt to ten: the first is the victim, the last holds strangers' only."""
    dealt = strings(10 * MEMBERS, 16, seed=1)
    return [dealt[i * MEMBERS : (i + 1) * MEMBERS] for i in range(10)]


@pytest.fixture(scope="module")
def each(ground: Lab, people) -> np.ndarray:
    """Every candidate's own gradient: the victim's records, then as many strangers."""
    return gradients(ground.one, people[0] + people[-1])


def told(update, each: np.ndarray) -> tuple[float, float]:
    scores = shares(update, each)
    return auc(scores[:MEMBERS], scores[MEMBERS:]), found_at(scores[:MEMBERS], scores[MEMBERS:])


def test_the_gradient_of_one_step_tells_every_record(ground: Lab, people, each):
    """The control: of a plain step the coordinator knows for each record whether it was there, without one mistake."""
    step = {name: -value for name, value in gradient(ground.one, people[0]).items()}

    assert told(step, each) == (1.0, 1.0)


def test_a_plain_update_tells_less_with_every_step_and_still_something(ground: Lab, people, each):
    once = told(plain(ground.one, batches(people[0], MEMBERS), ONCE), each)[0]
    often = Training(steps=6, batch=8, learning_rate=2e-3)
    after = told(plain(ground.one, batches(people[0], 8), often), each)[0]

    assert once > 0.85
    assert 0.55 < after < once


def test_a_secure_sum_of_eight_hides_a_record_that_one_update_shows(ground: Lab, people, each):
    updates = [plain(ground.one, batches(rows, MEMBERS), ONCE) for rows in people[:8]]

    assert told(summed(updates[:1]), each)[0] > 0.85
    assert told(summed(updates), each)[0] < 0.65


def test_under_differential_privacy_a_record_is_told_no_better_than_the_noise_allows(ground: Lab, people, each):
    """One Gaussian step of σ lets nobody tell better than Φ(1/(σ√2)), 0.575 at ε = 1; without the noise it does."""
    found: dict[str, list[float]] = {"as it is": [], "no noise": []}
    for seed in range(3):
        how = privately(people[0], 1.0, ONCE, seed=seed)
        bare = replace(how, spending=replace(how.spending, noise=1e-6))
        found["as it is"].append(told(private(ground.one, how, ONCE), each)[0])
        found["no noise"].append(told(private(ground.one, bare, ONCE), each)[0])

    limit = NormalDist().cdf(1 / (how.spending.noise * np.sqrt(2)))
    chance = 0.06  # of 48 members and 48 strangers, one deviation
    assert np.mean(found["no noise"]) > 0.85
    assert np.mean(found["as it is"]) < limit + chance < 0.65


def test_text_learned_by_heart_is_told_by_its_loss(ground: Lab):
    """The attack that needs no more than the published adapter, on what was trained on far too long."""
    members, strangers = strings(4, 16, seed=2), strings(24, 16, seed=3)
    rows = members + strangers
    before = losses(ground.model, rows, applied(ground.both, {}))

    def gain(people: list) -> np.ndarray:
        by_heart = plain(ground.both, batches(people, 4), Training(steps=60, batch=4, learning_rate=1e-2))
        return before - losses(ground.model, rows, applied(ground.both, by_heart))

    scores = calibrated(gain(members), gain(strings(4, 16, seed=4))[None])

    assert auc(scores[:4], scores[4:]) > 0.95


def test_the_area_under_the_curve_counts_pairs():
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auc(np.array([0.0]), np.array([1.0])) == 0.0
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 3.0])) == (0.5 + 0 + 1 + 0) / 4
    with pytest.raises(BadSetting):
        auc(np.array([]), np.array([1.0]))


def test_false_alarms_are_bounded():
    """Of two hundred strangers two may be taken for members: the third highest is the threshold."""
    strangers = np.arange(200.0)

    assert found_at(np.array([196.5, 197.5, 198.5, 500.0]), strangers) == 0.75
    assert found_at(np.array([199.5, 199.0]), strangers[:50] + 150) == 0.5


def test_a_record_is_judged_beside_what_it_gains_from_strangers():
    """A record that gains from everybody's update tells nothing by gaining."""
    shadows = np.array([[5.0, 0.0], [7.0, 0.0]])

    assert calibrated(np.array([6.0, 1.0]), shadows).tolist() == [0.0, pytest.approx(np.sqrt(2))]
