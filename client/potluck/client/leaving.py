"""Leaving: the right to withdraw, whenever the owner wants to."""

from dataclasses import replace

import numpy as np

from potluck.client.home import Home
from potluck.client.identity import Identity, identity_at
from potluck.client.link import LEAVE, Alone, Link
from potluck.client.outbox.store import Outbox, joined
from potluck.client.tasks import Event, Step
from potluck.wire import invites
from potluck.wire.envelopes import Purpose, sign
from potluck.wire.v1.enrollment_pb2 import LeaveRequest


def leave(home: Home, outbox: Outbox, identity: Identity, link: Link) -> int:
    """Tell the coordinator to forget this client, then drop all work; receipts and the key stay.

    Returns how many updates of this client published adapters contain: those stay in them.

    Raises:
        NotJoined: this home is a member of no run.
        Unreachable: the coordinator did not answer; nothing has changed here.
        Refusal: the coordinator refused; nothing has changed here.
    """
    membership = joined(outbox)
    request = LeaveRequest(run_id=membership.run_id)
    outbox.ask(replace(outbox.control(), leave=False))  # heard; if it fails, the owner asks again
    reply = link.patiently(LEAVE, sign(identity.key, Purpose.LEAVE, membership.coordinator_id, request))
    for task in outbox.open_tasks():
        outbox.move(task.lease_id, Event.DROPPED, reason="you left the run")
        home.drop_task(task.lease_id)
    for path in home.blobs.iterdir():
        path.unlink()
    outbox.step(Step.LEFT)
    return reply.counted


def leave_now(home: Home) -> int:
    """Leave, where no session runs in *home*; where one does, ask it by way of the outbox instead.

    Raises:
        HomeInUse: a session runs.
        NotJoined, Unreachable, Refusal: as leave().
    """
    with home.occupied():
        outbox = Outbox.open(home.outbox)
        try:
            link = Link(invites.read(joined(outbox).token), Alone(), np.random.default_rng())
            try:
                return leave(home, outbox, identity_at(home.key), link)
            finally:
                link.close()
        finally:
            outbox.close()
