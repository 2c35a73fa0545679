"""A coordinator that answers and answers, and never says anything, keeps no client for ever."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fakes import FakeClock
from potluck.client.gate import Gate
from potluck.client.identity import Identity
from potluck.client.link import STAT, STEP, WRITE
from potluck.client.secure.participation import Outgoing
from potluck.client.station import Station
from potluck.client.summing import UPLOADS, Talk
from potluck.wire.refusals import Refusal
from potluck.wire.secure.messages import Step
from potluck.wire.v1 import blobs_pb2
from potluck.wire.v1 import sums_pb2 as pb
from summing import summed_recipe

RECIPE = summed_recipe(privacy={"answer_s": 20, "vector_s": 60})
PATIENCE_S = 60 + 4 * 20
CALL_S = 0.1
VECTOR = np.arange(4096, dtype=np.uint8)
CLOSING = pb.StepReply(closing=b"over")


@dataclass
class FakeLookout:
    """Waits by moving the clock on."""

    clock: FakeClock
    gate: Gate = field(default_factory=Gate)

    def pulse(self) -> None:
        """Nobody wants anything."""

    def wait(self, seconds: float) -> None:
        self.clock.time_s += max(0.0, seconds)


@dataclass
class FakeLink:
    """A coordinator that has answers to STEP as *answer* says, and takes every upload; a call takes its time."""

    clock: FakeClock
    answer: Callable[[int], pb.StepReply]
    takes: bool = True
    steps: int = 0
    sent_bytes: int = 0
    invitation: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(coordinator_id="coordinator"))

    def call(self, call: object, request: object) -> object:
        self.clock.time_s += CALL_S
        if call is STEP:
            self.steps += 1
            assert self.steps < 10_000, "for ever"
            return self.answer(self.steps)
        if call is STAT:
            return blobs_pb2.WriteReply(committed_size=0)
        assert call is WRITE
        self.sent_bytes += len(request.data)
        assert self.sent_bytes < 10_000 * len(VECTOR), "for ever"
        return blobs_pb2.WriteReply(committed_size=len(VECTOR) if self.takes else 0, complete=self.takes)


class FakePart:
    """A participation that has a masked update to send, and is done once it hears how the sum ended."""

    sid = bytes(32)

    def take(self, step: Step, _message: bytes) -> Outgoing | None:
        return Outgoing(Step.MASK, b"masked", VECTOR) if step is Step.OPEN else None


def talk(link: FakeLink) -> pb.StepReply:
    """Return the last reply that a client gets from *link*."""
    station = Station(
        home=None,
        outbox=None,
        identity=Identity(Ed25519PrivateKey.generate()),
        membership=SimpleNamespace(coordinator_id="coordinator"),
        recipe=RECIPE,
        trainer=None,
        clock=link.clock,
        rng=np.random.default_rng(0),
        lookout=FakeLookout(link.clock),
        link=link,
        tell=lambda _: None,
        on_state=lambda _state, _when: None,
    )
    return Talk(station, SimpleNamespace(lease_id=bytes(16)), FakePart()).held(b"opening")


def ticket(_number: int) -> pb.StepReply:
    return pb.StepReply(ticket=pb.Ticket(upload_id=b"upload"))


@pytest.mark.parametrize("wait_s", [0.0, 1.0, 86_400.0, float("nan"), float("-inf")])
def test_a_client_that_is_told_to_wait_goes_once_the_step_took_too_long(wait_s: float):
    link = FakeLink(FakeClock(), lambda _: pb.StepReply(wait_s=wait_s))
    began_s = link.clock.time_s

    with pytest.raises(Refusal, match="took 140 s") as caught:
        talk(link)

    assert caught.value.retryable
    assert PATIENCE_S <= link.clock.time_s - began_s <= PATIENCE_S + 2 * CALL_S


def test_a_masked_update_is_sent_a_few_times_and_no_more():
    link = FakeLink(FakeClock(), ticket)

    with pytest.raises(Refusal, match="MASK") as caught:
        talk(link)

    assert caught.value.retryable
    assert link.sent_bytes == UPLOADS * len(VECTOR)


def test_one_that_is_asked_for_twice_is_sent_twice():
    link = FakeLink(FakeClock(), lambda number: ticket(number) if number < 3 else CLOSING)

    assert talk(link).closing == b"over"
    assert link.sent_bytes == 2 * len(VECTOR)


def test_an_upload_of_which_nothing_ever_arrives_ends_with_its_step():
    link = FakeLink(FakeClock(), ticket, takes=False)
    began_s = link.clock.time_s

    with pytest.raises(Refusal, match="took 140 s"):
        talk(link)

    assert link.clock.time_s - began_s <= PATIENCE_S + 2 * CALL_S
