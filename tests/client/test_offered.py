"""What a client insists on in a lease: with one adapter it makes one update for the sums, whoever leases it again."""

import sqlite3
from pathlib import Path

import pytest

from coordinators import Hosted, hosting
from fakes import Client, FakeTrainer
from potluck.client.events import Trouble
from potluck.client.parked import contribution
from potluck.client.secure.used import UsedFile
from potluck.coordinator.site import DATABASE_FILE
from potluck.wire.seeds import seed_of
from scripted import recipe
from summing import summed_recipe

SUMMED = summed_recipe()


def lied_to(hosted: Hosted, folder: Path, spent: int | None = None) -> tuple[Client, FakeTrainer]:
    """Let a client work until it has something to say to its owner, or is done; it has *spent* a version before."""
    client, trainer = Client(folder / "client", seed=1), FakeTrainer(seed=1)
    member = client.enrol(hosted.invite())
    if spent is not None:
        UsedFile(client.home.sums).spend(b"s" * 32, contribution(member.run_id, spent), [b"n" * 20], b"a" * 32)
    client.run(trainer, watch=lambda happening, session: isinstance(happening, Trouble) and session.stop())
    return client, trainer


def troubles(client: Client) -> list[Trouble]:
    return [happening for happening in client.events if isinstance(happening, Trouble)]


def another_seed(hosted: Hosted) -> None:
    """What a coordinator does that wants the same update twice: the seed is not that of the version."""
    with sqlite3.connect(hosted.folder / DATABASE_FILE) as database:
        database.execute("UPDATE versions SET seed = '1234'")
    database.close()


def test_a_lease_with_another_seed_is_refused_where_updates_are_summed(tmp_path: Path):
    """One seed under several versions gives the same update each time, and sums of it can be subtracted."""
    with hosting(tmp_path / "coordinator", SUMMED) as hosted:
        another_seed(hosted)
        client, trainer = lied_to(hosted, tmp_path)

        (trouble,) = troubles(client)
        assert trouble.message.startswith("the lease has another seed than its recipe and version give")
        assert "version 0 with the seed 1234; nothing was trained" in trouble.message
        assert "potluck leave" in trouble.fix
        assert trainer.taken == []
        assert hosted.coordinator.status().leases == 0  # given back


def test_where_nothing_is_summed_the_seed_hides_nothing_and_is_taken(tmp_path: Path):
    with hosting(tmp_path / "coordinator", recipe(aggregation={"cohort": 1, "minimum": 1})) as hosted:
        another_seed(hosted)
        client, trainer = Client(tmp_path / "client", seed=1), FakeTrainer(seed=1)
        client.enrol(hosted.invite())
        client.run(trainer, watch=lambda _happening, session: trainer.taken and session.stop())

        assert (troubles(client), trainer.taken != []) == ([], True)


@pytest.mark.parametrize("spent", [0, 3])
def test_a_lease_of_a_version_that_is_not_above_the_last_one_given_to_a_sum_is_refused(tmp_path: Path, spent: int):
    with hosting(tmp_path / "coordinator", SUMMED) as hosted:
        client, trainer = lied_to(hosted, tmp_path, spent)

        (trouble,) = troubles(client)
        assert trouble.message.startswith("the lease is not for a later version than the last one")
        assert f"version 0 after version {spent}; nothing was trained" in trouble.message
        assert "potluck leave" in trouble.fix
        assert trainer.taken == []


def test_what_was_given_in_another_run_is_no_version_of_this_one(tmp_path: Path):
    used = UsedFile(tmp_path / "sums.txt")
    assert used.last("run") is None
    used.spend(b"s" * 32, contribution("another/run", 9), [b"n" * 20], b"a" * 32)
    used.spend(b"t" * 32, contribution("run", 2), [b"n" * 20], b"a" * 32)
    used.spend(b"u" * 32, contribution("run", 10), [b"n" * 20], b"a" * 32)
    assert (used.last("run"), used.last("another/run"), used.last("another")) == (10, 9, None)


def test_a_summed_run_whose_recipe_changes_goes_on_under_a_new_number_with_the_new_recipes_seed(tmp_path: Path):
    folder = tmp_path / "coordinator"
    first, changed = (summed_recipe(run={"versions": 3, "purpose": purpose}) for purpose in ("one", "another"))
    with hosting(folder, first) as hosted:
        assert hosted.volunteer().lease().seed == seed_of(first.digest(), 0)

    for _ in range(2):  # once: what has the right seed keeps its number
        with hosting(folder, changed) as hosted:
            lease = hosted.volunteer().lease()
            assert (lease.version, lease.seed) == (1, seed_of(changed.digest(), 1))


def test_a_run_that_is_not_summed_keeps_its_version_where_the_recipe_changes(tmp_path: Path):
    with hosting(tmp_path / "coordinator", recipe()):
        pass
    with hosting(tmp_path / "coordinator", recipe(run={"purpose": "another"})) as hosted:
        lease = hosted.volunteer().lease()
        assert (lease.version, lease.seed) == (0, seed_of(recipe().digest(), 0))
