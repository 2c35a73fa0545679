import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos import chaos
from coordinators import hosting
from potluck.client.errors import Interrupted, Unreachable
from potluck.client.link import ABOUT, Link, Patience
from potluck.client.probe import diagnosis
from potluck.client.sane import SHORTEST_S
from potluck.wire import invites
from potluck.wire.refusals import Refusal
from potluck.wire.v1.enrollment_pb2 import AboutRequest
from scripted import recipe


@dataclass
class FakeWatch:
    """Counts waits instead of waiting."""

    wakes: int = 0
    waits: list[float] = field(default_factory=list)
    stopping: bool = False

    def pulse(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    with hosting(tmp_path_factory.mktemp("coordinator"), recipe()) as made:
        yield made


def linked(token: str, watch: FakeWatch) -> Link:
    return Link(invites.read(token), watch, np.random.default_rng(0))


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 100))
def test_waits_grow_with_full_jitter_up_to_a_quarter_of_an_hour(failures, seed):
    waited = Patience().wait_s(failures, np.random.default_rng(seed))

    assert 0 < waited <= min(900, 30 * 2 ** min(failures - 1, 40))


def test_clients_that_failed_together_come_back_apart():
    waits = [Patience().wait_s(6, np.random.default_rng(seed)) for seed in range(200)]

    assert min(waits) < 90
    assert max(waits) > 810
    assert 350 < np.mean(waits) < 550


@given(pushback=st.floats(0, 1e4))
def test_the_coordinator_may_say_how_long_to_wait(pushback):
    waited = Patience().wait_s(9, np.random.default_rng(0), pushback)

    assert pushback <= waited <= 1.2 * max(pushback, SHORTEST_S)


def test_what_cannot_succeed_later_is_not_tried_again(hosted):
    watch = FakeWatch()
    link = linked(hosted.invite(uses=1), watch)
    hosted.coordinator.desk.invites.revoke(link.invitation.invite_id)

    with pytest.raises(Refusal) as caught:
        link.patiently(ABOUT, AboutRequest(invite=link.invitation.token))
    link.close()

    assert caught.value.code == "invite_revoked"
    assert watch.waits == []


def test_a_dead_address_is_given_up_after_three_tries_and_the_next_one_is_tried(hosted):
    with chaos(hosted.port) as proxy:
        dead = proxy.address
    token = hosted.coordinator.invite([dead], 1)
    watch = FakeWatch()
    link = linked(token, watch)
    with pytest.raises(Unreachable, match=r"no answer from 127.0.0.1:\d+ in 3 tries"):
        link.patiently(ABOUT, AboutRequest(invite=token))
    assert len(watch.waits) == 2
    link.close()

    token = hosted.coordinator.invite([dead, hosted.address], 1)
    link = linked(token, watch)
    assert link.patiently(ABOUT, AboutRequest(invite=token)).uses_left == 1
    assert link.address == hosted.address
    link.close()


def test_after_a_wake_the_old_connection_is_not_used_again(hosted):
    """The proxy counts connections: a channel from before a sleep may hang for a quarter of an hour."""
    with chaos(hosted.port) as proxy:
        token = hosted.coordinator.invite([proxy.address], 1)
        watch = FakeWatch()
        link = linked(token, watch)
        for _ in range(3):
            link.call(ABOUT, AboutRequest(invite=token))
        assert proxy.connections == 1

        watch.wakes += 1
        link.call(ABOUT, AboutRequest(invite=token))
        link.close()

        assert proxy.connections == 2


def test_the_owner_is_heard_during_a_call_that_hangs(hosted):
    """A listener that accepts and says nothing: the call would last for its whole deadline."""
    import socket  # noqa: PLC0415 - only here

    with socket.create_server(("127.0.0.1", 0)) as silent:
        token = hosted.coordinator.invite([f"127.0.0.1:{silent.getsockname()[1]}"], 1)
        watch = FakeWatch()
        link = linked(token, watch)
        threading.Timer(0.2, lambda: setattr(watch, "stopping", True)).start()

        with pytest.raises(Interrupted):
            link.call(ABOUT, AboutRequest(invite=token))
        link.close()


def test_bytes_are_counted_in_both_directions_once(hosted):
    token = hosted.invite()
    link = linked(token, FakeWatch())
    request = AboutRequest(invite=token)
    reply = link.call(ABOUT, request)
    link.close()

    assert link.traffic() == (request.ByteSize(), reply.ByteSize())
    assert link.traffic() == (0, 0)


def test_another_coordinator_at_the_address_is_told_from_a_dead_one(hosted, tmp_path):
    """The pin is on the certificate authority of the invite: nothing is sent to anybody else."""
    with hosting(tmp_path, recipe()) as other:
        invitation = invites.read(hosted.coordinator.invite([other.address], 1))
        assert "is not the one that made this invite; nothing was sent" in diagnosis(other.address, invitation)[0]
        assert diagnosis(hosted.address, invitation) == ("", "")
        dead = other.address

    assert "nobody listens" in diagnosis(dead, invitation)[0]
    assert "is no address" in diagnosis("127.0.0.1", invitation)[0]
