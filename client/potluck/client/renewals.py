"""Renewals: while a lease is held, say so when it is due, on a thread and a channel of their own.

A step of training or the download of a base model may take longer than a lease; and a network that is gone must not
hold up training, which needs none.
"""

from collections.abc import Callable
from threading import Event, Thread
from typing import Final, final

import numpy as np

from potluck.client.errors import Interrupted
from potluck.client.link import RENEW, Link
from potluck.client.sane import span_s
from potluck.wire.invites import Invitation
from potluck.wire.refusals import Refusal
from potluck.wire.v1.envelope_pb2 import Envelope

AGAIN_S: Final = 30.0  # after a failed renewal
SOON: Final = 3.0  # the first renewal is due after this part of the lease


@final
class Renewals:
    """The renewals of one lease, until end().  It is the watch of its own link: nothing but its end matters to it."""

    def __init__(self, invitation: Invitation, request: Callable[[], Envelope | None], *, first_s: float) -> None:
        self.stopped = ""  # why the coordinator does not need the work any more; empty while it does
        self.wakes = 0
        self._link = Link(invitation, self, np.random.default_rng(0))
        self._request = request
        self._over = Event()
        self._bell = Event()
        self._thread = Thread(target=self._run, args=(first_s,), name="renewals", daemon=True)
        self._thread.start()

    def end(self) -> tuple[int, int]:
        """Stop renewing; return the bytes that all renewals sent and received."""
        self._over.set()
        self._bell.set()
        self._thread.join()
        self._link.close()
        return self._link.traffic()

    def wake(self) -> None:
        """Renew at once, on a new channel: the machine slept."""
        self.wakes += 1
        self._bell.set()

    def pulse(self) -> None:
        """Raise Interrupted once the lease is over."""
        if self._over.is_set():
            raise Interrupted("the lease is over")

    def wait(self, seconds: float) -> None:
        """Wait, or until the lease is over."""
        self._over.wait(seconds)

    def _run(self, wait_s: float) -> None:
        while not self.stopped:
            self._bell.wait(wait_s)
            self._bell.clear()
            if self._over.is_set():
                return
            wait_s = self._renewed()

    def _renewed(self) -> float:
        """Renew once; return when to do so again, in seconds."""
        request = self._request()
        if request is None:  # the owner does not want the network used now
            return AGAIN_S
        try:
            reply = self._link.call(RENEW, request)
        except Refusal as refusal:
            self.stopped = "" if refusal.retryable else str(refusal)
            return AGAIN_S
        except Interrupted:
            return AGAIN_S
        if not reply.proceed:
            self.stopped = reply.human or "the coordinator does not need this work any more"
        return max(1.0, span_s(reply.next_renew_s, AGAIN_S))
