"""Where updates are summed, nobody can have the same one made twice; elsewhere everybody can make it again."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinators import hosting
from fakes import Client, FakeTrainer, NoFit
from potluck.client.events import Phase, Progressed
from potluck.client.identity import identity_at
from potluck.client.tasks import TaskState
from potluck.client.work import Job, Trained, order_of
from potluck.wire.recipe import Recipe
from potluck.wire.seeds import seed_of
from scripted import recipe
from summing import entering, summed_recipe

PLAIN = recipe(aggregation={"cohort": 1, "minimum": 1})
SUMMED = summed_recipe()


@dataclass
class Watching(FakeTrainer):
    """Notes in which orders it was to train."""

    orders: list[int] = field(default_factory=list)

    def train(self, job: Job, on_step) -> Trained | None:
        self.orders.append(job.order)
        return super().train(job, on_step)


class Failing(Watching):
    """Trains to no end, so that the lease is given back and the same version leased again."""

    def train(self, job: Job, on_step) -> Trained | None:
        super().train(job, on_step)
        raise NoFit("the text is gone", fix="look for it")


def failed(folder: Path, of: Recipe) -> list[int]:
    """Return the orders in which one member trains from one adapter with one seed, under three leases."""
    client, trainer = Client(folder / "client", seed=1), Failing(seed=1)
    with hosting(folder / "coordinator", of) as hosted:
        client.enrol(hosted.invite())
        with pytest.raises(NoFit):
            client.run(trainer)
    return trainer.orders


def test_an_update_that_is_made_again_for_a_sum_is_trained_in_another_order(tmp_path: Path):
    """The same coordinator, member, text, adapter, version and seed; another lease."""
    assert len(set(failed(tmp_path, SUMMED))) == 3


def test_where_nothing_is_summed_the_order_is_of_the_client_and_the_version(tmp_path: Path):
    """Simulations train in the same one, and end in the same bits."""
    orders = failed(tmp_path, PLAIN)

    own = identity_at(Client(tmp_path / "client").home.key).client_id
    assert orders == [order_of(own, seed_of(PLAIN.digest(), 0))] * 3


def test_training_that_was_interrupted_goes_on_in_its_order_whose_secret_goes_with_it(tmp_path: Path):
    client, first, second = Client(tmp_path / "client", seed=1), Watching(steps=4), Watching(steps=4)

    def at_two(happening: object, session) -> None:
        if isinstance(happening, Progressed) and happening.phase is Phase.TRAIN and happening.done == 2:
            session.stop()

    def sealed(happening: object, session) -> None:
        if entering(TaskState.OFFERING)(happening):
            session.stop()

    with hosting(tmp_path / "coordinator", SUMMED) as hosted:
        client.enrol(hosted.invite())
        client.run(first, watch=at_two)
        (secret,) = client.home.tasks.glob("*/order.secret")
        assert secret.stat().st_mode & 0o077 == 0
        client.run(second, watch=sealed)

    assert (first.taken, second.taken) == ([1, 2], [3, 4])
    assert first.orders == second.orders
    assert list(client.home.tasks.iterdir()) == []
