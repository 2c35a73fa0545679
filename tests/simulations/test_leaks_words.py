"""Which words an update shows: all of them where steps travel as they are, none under privacy or in a sum of many."""

from dataclasses import replace

import numpy as np
import pytest

from leaking import Lab, batches, lab, privately, words_of
from potluck.simulations.leaks.reading import entering, returning, text
from potluck.simulations.leaks.updates import gradient, plain, private, summed
from potluck.simulations.leaks.words import came_back, explained, pursued, went_in, whose
from potluck.wire.recipe import Training

LAST = 3
STEPS = Training(steps=4, batch=4, learning_rate=2e-3)
SECRET = b"my pin is 4071, Ada."
LONG = b"The quick brown fox jumps over the lazy dog, 15 times; then SLEEPS WELL until 7 or so. Ask Viktor Quincy."


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Lab:
    return lab(tmp_path_factory.mktemp("leaks"), size=1.0)


def person(number: int) -> list:
    """Return 16 rows in an alphabet of somebody's own, 24 of the 256 bytes: words that give their writer away."""
    rng = np.random.default_rng(100 + number)
    alphabet = rng.permutation(256)[:24]
    return [words_of(bytes(rng.choice(alphabet, 24).tolist())) for _ in range(16)]


def words(rows: list) -> set[int]:
    return {word for row in rows for word in row.ids}


def told(ground: Lab, update, victim: int) -> float:
    """Return how well *update* tells the victim's words from those of somebody who had no part in it."""
    return whose(
        explained(came_back(update, LAST), returning(ground.model)), words(person(victim)), words(person(victim + 50))
    )


def test_the_gradient_of_one_step_is_read_word_for_word(ground: Lab):
    """The control: without a protection the attack is not good, it is exact.  So a client never sends one step."""
    row = words_of(SECRET)
    update = gradient(ground.both, [row])

    inside = explained(went_in(update), entering(ground.model)) > 0.999
    found = text(ground.both, update, np.flatnonzero(inside).tolist(), longest=40)

    assert set(np.flatnonzero(inside)) == set(row.ids[:-1])
    assert bytes(word - 3 for word in found) == SECRET[:-1]  # nothing comes after the last one that it could predict


def test_more_words_are_found_than_the_update_has_rows(ground: Lab):
    """A low rank is no protection: 42 different letters come out of 24 rows."""
    row = words_of(LONG)
    update = gradient(ground.both, [row])
    true = set(row.ids[:-1])

    assert len(went_in(update)) == 24
    assert len(true) == 42
    assert set(pursued(went_in(update), entering(ground.model), 60)) == true


def test_an_update_of_several_adamw_steps_still_shows_its_words(ground: Lab):
    """AdamW divides every number by its own size, which breaks the algebra but not the statistics."""
    for scene in (ground.both, ground.one):
        found = [told(ground, plain(scene, batches(person(i), 4), STEPS), i) for i in range(4)]
        assert np.mean(found) > 0.8


def test_under_differential_privacy_words_are_told_at_chance(ground: Lab):
    """And only because of the noise: the same engine with next to none of it shows them."""
    steps = STEPS.model_copy(update={"batch": 8})
    told_of: dict[str, list[float]] = {"as it is": [], "no noise": []}
    for victim in range(4):
        how = privately(person(victim), 8.0, steps, seed=victim)
        bare = replace(how, spending=replace(how.spending, noise=1e-6))
        told_of["as it is"].append(told(ground, private(ground.one, how, steps), victim))
        told_of["no noise"].append(told(ground, private(ground.one, bare, steps), victim))

    assert np.mean(told_of["no noise"]) > 0.8
    assert 0.35 < np.mean(told_of["as it is"]) < 0.65


def test_a_secure_sum_shows_fewer_words_of_each_the_more_take_part(ground: Lab):
    """Two hide little; among sixteen, the victim's words are told at chance from a stranger's."""
    everybody = [plain(ground.one, batches(person(i), 4), STEPS) for i in range(16)]

    def mean(count: int) -> float:
        total = summed(everybody[:count])
        return float(np.mean([told(ground, total, i) for i in range(min(count, 8))]))

    assert told(ground, summed(everybody[:1]), 0) > 0.8
    assert mean(2) > 0.65
    assert mean(16) < 0.6
    assert mean(2) > mean(16)


def test_a_secure_sum_of_one_step_each_does_not_hide_the_words_of_two(ground: Lab):
    """Summing is no cure for steps that travel as they are: a rank of the sum is left for both."""
    rows = [words_of(SECRET), words_of(b"Eve, noon, platform 9")]
    total = summed([gradient(ground.both, [row]) for row in rows], bits=32)

    found = pursued(went_in(total), entering(ground.model), 24, kept=1e-4)

    true = {word for row in rows for word in row.ids[:-1]}
    assert len(set(found) & true) / len(true) > 0.8
