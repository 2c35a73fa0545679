"""Error feedback in real sessions: what the codec left out of one update is in the next, in the next one's basis."""

import logging
import sqlite3
from collections.abc import Callable

import numpy as np
import pytest

from coordinators import hosting
from fakes import Client, FakeTrainer, fake_deltas
from potluck.aggregation import CODECS, Limits, LowRank, decode
from potluck.aggregation.codecs.feedback import feed, rebased
from potluck.client.endings import Ending
from potluck.client.events import Moved
from potluck.client.outbox.store import Outbox
from potluck.client.sealing import fit_of
from potluck.client.starts import begun
from potluck.client.tasks import TaskState
from potluck.client.work import Job
from potluck.wire.recipe import Recipe
from scripted import recipe

SPARSE = {"name": "sparse2bit", "settings": {"chunk": 64, "k": 8}, "error_feedback": True, "beta": 0.5}


def sparse(versions: int = 3, **codec: object) -> Recipe:
    return recipe(run={"versions": versions}, aggregation={"cohort": 1, "minimum": 1}, codec=SPARSE | codec)


class Watching(FakeTrainer):
    """A fake trainer that remembers its jobs and the starts that they begin from."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seen: dict[int, tuple[Job, dict]] = {}

    def prepare(self, job: Job) -> None:
        super().prepare(job)
        self.seen[job.version] = (job, begun(job).trainable)


def waiting(client: Client) -> list[dict[str, np.ndarray]]:
    """Return what waits in the client's home for its next update."""
    outbox = Outbox.open(client.home.outbox)
    membership = outbox.membership()
    files = outbox.residuals.digests()
    free = outbox.residuals.free(membership.run_id, fit_of(Recipe.parse(membership.recipe_json)))
    outbox.close()
    assert all(client.home.blob(digest).exists() for digest in files)
    return [decode(client.home.blob(kept.digest).read_bytes(), limits=Limits()) for kept in free]


def played(
    tmp_path, whole: Recipe, at: Callable[[Client, Moved], None] = lambda _client, _moved: None
) -> tuple[Client, Watching, dict[int, bytes]]:
    """Let one client work until the run is done; return the bytes of its update of each version."""
    sent: dict[int, bytes] = {}
    trainer = Watching(seed=1)
    with hosting(tmp_path / "coordinator", whole) as hosted:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.invite())

        def watch(happening, _session):
            if isinstance(happening, Moved):
                at(client, happening)
            if isinstance(happening, Moved) and happening.state is TaskState.OFFERING:
                outbox = Outbox.open(client.home.outbox)
                sent[happening.version] = client.home.blob(outbox.task(happening.lease_id).sealed.digest).read_bytes()
                outbox.close()

        assert client.run(trainer, watch=watch).ending is Ending.RUN_DONE
    return client, trainer, sent


def test_what_was_left_out_is_in_the_next_update_turned_into_its_basis(tmp_path):
    """The next one is β·e·Q + Δ, to the last bit of what travelled; the rest of the last one waits on the disk."""
    whole = sparse()
    client, trainer, sent = played(tmp_path, whole)

    packing, residual, before = whole.codec.choose(tuple(CODECS)), {}, None
    for version in range(3):
        job, start = trainer.seen[version]
        held = {} if before is None else rebased(residual, before, start)
        fed = feed(fake_deltas(job, 1), held, packing.encode, beta=0.5)
        assert sent[version] == fed.message
        residual = {name: value.astype(np.float32) for name, value in fed.left.items()}
        before = {name: half(term) for name, term in start.items()}

    (kept,) = waiting(client)
    assert kept.keys() == residual.keys()
    assert all(np.array_equal(kept[name], residual[name]) for name in kept)


@pytest.mark.parametrize("rule", ["ffa", "rolora"])
def test_where_one_factor_is_trained_the_rest_of_each_waits_unturned_for_its_next_turn(tmp_path, rule: str):
    """Under rolora the rest of B skips the versions that train A; nothing is decomposed, so nothing turns."""
    one = {"cohort": 1, "minimum": 1, "rule": rule, "weights": ["examples"]}
    whole = recipe(run={"versions": 4}, aggregation=one, codec=SPARSE)
    client, trainer, sent = played(tmp_path, whole)

    packing, residual = whole.codec.choose(tuple(CODECS)), {}
    for version in range(4):
        changes = fake_deltas(trainer.seen[version][0], 1)
        assert {name[-1] for name in changes} == {"A" if rule == "rolora" and version % 2 else "B"}
        fed = feed(changes, residual, packing.encode, beta=0.5)
        assert sent[version] == fed.message
        residual = {name: value.astype(np.float32) for name, value in fed.left.items()}

    (kept,) = waiting(client)
    assert len(kept) == len(whole.modules()) * (2 if rule == "rolora" else 1)
    assert all(np.array_equal(kept[name], residual[name]) for name in kept)


def half(term):
    """The start as it is kept beside a rest: to half precision, which is enough to see how it turned."""
    return LowRank(
        term.b.astype(np.float16).astype(np.float32), term.a.astype(np.float16).astype(np.float32), term.scale
    )


def test_without_feedback_nothing_is_kept(tmp_path):
    whole = sparse(versions=2, error_feedback=False, may_forget=True)
    client, trainer, sent = played(tmp_path, whole)

    packing = whole.codec.choose(tuple(CODECS))
    assert [sent[version] for version in (0, 1)] == [
        packing.encode(fake_deltas(trainer.seen[version][0], 1)) for version in (0, 1)
    ]
    assert len(list(client.home.blobs.iterdir())) == 1  # the shared adapter


def test_an_update_that_comes_too_late_gives_back_what_it_took(tmp_path):
    """Another client's update ends the run while this one's second waits to be offered: its rest is as it was."""
    whole = sparse(versions=2)
    with hosting(tmp_path / "coordinator", whole) as hosted:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.invite())
        other = hosted.volunteer(seed=2)
        kept: list[list[dict[str, np.ndarray]]] = []

        def watch(happening, _session):
            if isinstance(happening, Moved) and happening.version == 1:
                if happening.state is TaskState.PREPARED:
                    kept.append(waiting(client))
                if happening.state is TaskState.OFFERING:
                    other.contribute()
                    assert hosted.coordinator.wait_for_version(2, 20.0)

        assert client.run(watch=watch).ending is Ending.RUN_DONE
        after = waiting(client)

    assert len(kept[0]) == len(after) == 1
    assert all(np.array_equal(kept[0][0][name], value) for name, value in after[0].items())


def test_a_rest_whose_file_is_gone_is_told_and_the_work_goes_on(tmp_path, caplog):
    whole = sparse(versions=2)
    with hosting(tmp_path / "coordinator", whole) as hosted:
        client = Client(tmp_path / "client", seed=1)
        client.enrol(hosted.invite())

        def watch(happening, _session):
            if isinstance(happening, Moved) and happening.version == 1 and happening.state is TaskState.PREPARED:
                outbox = Outbox.open(client.home.outbox)
                for digest in outbox.residuals.digests():
                    client.home.blob(digest).write_bytes(b"damaged")
                outbox.close()

        with caplog.at_level(logging.WARNING):
            assert client.run(watch=watch).ending is Ending.RUN_DONE

    assert "event=residual_lost" in caplog.text


def test_a_rest_that_does_not_fit_any_more_is_dropped_and_told(tmp_path, caplog):
    """The second update is then what training changed, and nothing else."""
    whole = sparse(versions=2)

    def spoil(client: Client, moved: Moved) -> None:
        if moved.version == 1 and moved.state is TaskState.PREPARED:
            with sqlite3.connect(client.home.outbox) as file:
                file.execute("UPDATE residuals SET fit = x'00'")
            file.close()

    with caplog.at_level(logging.WARNING):
        _, trainer, sent = played(tmp_path, whole, spoil)

    assert "event=residual_dropped files=1" in caplog.text
    assert sent[1] == whole.codec.choose(tuple(CODECS)).encode(fake_deltas(trainer.seen[1][0], 1))


def test_a_rest_fits_one_set_of_shapes_rank_scale_and_init():
    """And any codec: only what its numbers are deltas of counts."""
    base = sparse()
    others = [
        recipe(adapter={"rank": 3, "alpha": 6.0}, codec=SPARSE),
        recipe(adapter={"rank": 2, "alpha": 8.0}, codec=SPARSE),
        recipe(adapter={"init": "orthonormal"}, codec=SPARSE),
        recipe(model={"modules": {"model.layers.0.self_attn.q_proj": [16, 12]}}, codec=SPARSE),
    ]

    assert len({fit_of(one) for one in [base, *others]}) == 5
    assert fit_of(base) == fit_of(sparse(versions=9, beta=1.0, settings={"chunk": 64, "k": 1}))
