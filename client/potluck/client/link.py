"""The link to the coordinator: a pinned channel, a deadline on every call, patience between tries.

The network of a laptop breaks all the time: the lid closes, the Wi-Fi changes.  A channel that was open before the
machine slept is not to be trusted after it (gRPC may take a quarter of an hour to notice), so a wake opens a new one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, Generic, Protocol, TypeVar, final

import grpc
import numpy as np

from potluck.client.errors import Unreachable
from potluck.client.sane import span_s
from potluck.wire.channels import pinned_channel
from potluck.wire.invites import Invitation
from potluck.wire.refusals import Refusal, refusal_of
from potluck.wire.v1 import (
    blobs_pb2,
    blobs_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    sums_pb2,
    sums_pb2_grpc,
    work_pb2,
    work_pb2_grpc,
)
from potluck.wire.v1.envelope_pb2 import Envelope

Q = TypeVar("Q")  # the question
A = TypeVar("A")  # the answer
_SLICE_S: Final = 0.5  # how long the program may be deaf to its owner during a call
_GRACE_S: Final = 5.0  # after the deadline, before gRPC's own word for it is no longer waited for


@final
@dataclass(frozen=True, slots=True)
class Call(Generic[Q, A]):
    """One method of the coordinator, and how long it may take."""

    service: Callable[[grpc.Channel], Any]
    method: str
    deadline_s: float = 30.0


ABOUT: Final[Call[enrollment_pb2.AboutRequest, enrollment_pb2.AboutReply]] = Call(
    enrollment_pb2_grpc.EnrollmentStub, "About", 15.0
)
ENROLL: Final[Call[Envelope, enrollment_pb2.EnrollReply]] = Call(enrollment_pb2_grpc.EnrollmentStub, "Enroll")
LEAVE: Final[Call[Envelope, enrollment_pb2.LeaveReply]] = Call(enrollment_pb2_grpc.EnrollmentStub, "Leave")
CHECK_IN: Final[Call[Envelope, work_pb2.CheckInReply]] = Call(work_pb2_grpc.WorkStub, "CheckIn")
RENEW: Final[Call[Envelope, work_pb2.RenewReply]] = Call(work_pb2_grpc.WorkStub, "Renew", 10.0)
OFFER: Final[Call[Envelope, work_pb2.OfferReply]] = Call(work_pb2_grpc.WorkStub, "Offer")
SUBMIT: Final[Call[Envelope, work_pb2.SubmitReply]] = Call(work_pb2_grpc.WorkStub, "Submit", 120.0)
ABORT: Final[Call[Envelope, work_pb2.AbortReply]] = Call(work_pb2_grpc.WorkStub, "Abort", 10.0)
MEET: Final[Call[Envelope, sums_pb2.MeetReply]] = Call(sums_pb2_grpc.SumsStub, "Meet", 15.0)
STEP: Final[Call[Envelope, sums_pb2.StepReply]] = Call(sums_pb2_grpc.SumsStub, "Step", 15.0)
WRITE: Final[Call[blobs_pb2.WriteRequest, blobs_pb2.WriteReply]] = Call(blobs_pb2_grpc.BlobsStub, "Write", 60.0)
STAT: Final[Call[blobs_pb2.StatRequest, blobs_pb2.WriteReply]] = Call(blobs_pb2_grpc.BlobsStub, "Stat")
READ: Final[Call[Envelope, blobs_pb2.ReadReply]] = Call(blobs_pb2_grpc.BlobsStub, "Read", 60.0)


@final
@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait after failures, in seconds."""

    first_s: float = 30.0
    longest_s: float = 900.0
    for_good_s: float = 3_600.0  # after a refusal that waiting may or may not mend: an operator has to act

    def wait_s(self, failures: int, rng: np.random.Generator, pushback_s: float | None = None) -> float:
        """Return how long to wait after *failures* failed tries: full jitter, or what the coordinator asked for.

        Uniform in (0, min(longest, first·2^(failures−1))], so that clients that failed together come back apart.
        """
        if pushback_s is not None:
            return span_s(pushback_s, self.longest_s) * (1 + 0.2 * float(rng.random()))
        ceiling_s = min(self.longest_s, self.first_s * 2.0 ** min(max(failures, 1) - 1, 32))
        return ceiling_s * (1 - float(rng.random()))


AT_THE_PROMPT: Final = Patience(first_s=1.0, longest_s=4.0)
"""While a person looks on."""


class Watch(Protocol):
    """What the link asks of whoever looks after the owner's wishes."""

    @property
    def wakes(self) -> int:
        """How often the machine woke from sleep; a channel from before a wake is not used again."""

    def pulse(self) -> None:
        """Return quietly, or raise what the owner wants."""

    def wait(self, seconds: float) -> None:
        """Wait; raise what the owner wants."""


@final
class Alone:
    """Nobody to ask: for short commands, which Ctrl-C ends at any moment."""

    wakes: int = 0

    def pulse(self) -> None:
        """Return quietly."""

    def wait(self, seconds: float) -> None:
        """Wait."""
        Event().wait(seconds)


@final
class Link:
    """Calls to one coordinator, from one thread.  Close it when done."""

    def __init__(self, invitation: Invitation, watch: Watch, rng: np.random.Generator) -> None:
        self.invitation = invitation
        self.failures = 0  # calls in a row that got no useful answer
        self._watch = watch
        self._rng = rng
        self._address = 0
        self._sent = 0
        self._received = 0
        self._channel: grpc.Channel | None = None
        self._wakes = watch.wakes
        self._methods: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """The address that the next call goes to; an invite may name several."""
        return self.invitation.addresses[self._address % len(self.invitation.addresses)]

    def close(self) -> None:
        """Close the channel; the next call opens a new one."""
        channel, self._channel = self._channel, None
        self._methods.clear()
        if channel is not None:
            channel.close()

    def traffic(self) -> tuple[int, int]:
        """Return the bytes of messages sent and received since this was last asked."""
        counted, self._sent, self._received = (self._sent, self._received), 0, 0
        return counted

    def call(self, call: Call[Q, A], request: Q) -> A:
        """Make *call*, once.

        Raises:
            Refusal: the coordinator said no, or the network did; `.retryable` tells whether to try again.
            Interrupted: the owner wants the program to stop.
        """
        try:
            reply = self._made(call, request)
        except Refusal as refusal:
            if refusal.retryable:
                self.failures += 1
            if refusal.code == "unavailable":
                self.close()
                self._address += 1
            raise
        self.failures = 0
        return reply

    def patiently(self, call: Call[Q, A], request: Q, *, tries: int = 3, patience: Patience = AT_THE_PROMPT) -> A:
        """Make *call* until the coordinator answers, at most *tries* times.

        Raises:
            Refusal: the coordinator said no for good.
            Unreachable: no try got an answer.
        """
        while True:
            try:
                return self.call(call, request)
            except Refusal as refusal:
                if not refusal.retryable:
                    raise
                if self.failures >= tries:
                    raise Unreachable(
                        f"no answer from {' or '.join(self.invitation.addresses)} in {tries} tries: {refusal}",
                        fix=refusal.fix or "check the network, and that the coordinator is up",
                    ) from refusal
                self._watch.wait(patience.wait_s(self.failures, self._rng, refusal.retry_in_s))

    def _made(self, call: Call[Q, A], request: Q) -> A:
        """Make *call*; listen to the owner meanwhile."""
        method = self._method(call)
        self._sent += _size(request)
        future = method.future(request, timeout=call.deadline_s)
        slices = math.ceil((call.deadline_s + _GRACE_S) / _SLICE_S)
        try:
            for _ in range(slices):
                try:
                    reply: A = future.result(timeout=_SLICE_S)
                except grpc.FutureTimeoutError:
                    self._watch.pulse()
                else:
                    self._received += _size(reply)
                    return reply
        except grpc.FutureCancelledError:
            raise Refusal(f"{call.method} was cut off", code="unavailable") from None
        except grpc.RpcError as error:
            raise refusal_of(error) from None
        finally:
            future.cancel()  # nothing happens to a call that ended
        # gRPC's own deadline can hang after sleep (grpc/grpc #33037).
        raise Refusal(f"{call.method} took over {call.deadline_s:g} s and did not end", code="unavailable")

    def _method(self, call: Call[Q, A]) -> Any:  # noqa: ANN401 - grpcio does not type its stubs
        if self._wakes != self._watch.wakes:
            self._wakes = self._watch.wakes
            self.close()
        if self._channel is None:
            self._channel = pinned_channel(self.address, self.invitation)
        if call.method not in self._methods:
            self._methods[call.method] = getattr(call.service(self._channel), call.method)
        return self._methods[call.method]


def _size(message: Any) -> int:  # noqa: ANN401 - any message
    size: int = message.ByteSize()
    return size
