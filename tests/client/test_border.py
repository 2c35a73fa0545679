"""What crosses the border: receipts come in only if they are right, and no words of ours go out."""

import secrets
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fakes import FakeClock, FakeSensors, FakeTrainer, NoFit
from potluck.client.delivery import kept
from potluck.client.errors import BadReceipt
from potluck.client.events import Trouble
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.link import Alone, Link
from potluck.client.lookout import Lookout
from potluck.client.outbox.store import Outbox
from potluck.client.records import Membership, Sealed, Task, Terms
from potluck.client.station import Station
from potluck.client.tasks import MembershipState, TaskState
from potluck.wire import invites
from potluck.wire.envelopes import BadSignature, Purpose, opened, sign
from potluck.wire.v1.enrollment_pb2 import Invite
from potluck.wire.v1.envelope_pb2 import Envelope
from potluck.wire.v1.work_pb2 import VERDICT_ACCEPTED, Receipt
from scripted import recipe

COORDINATOR = Ed25519PrivateKey.generate()
TOKEN = invites.write(
    COORDINATOR,
    Invite(version=1, run_id="run", addresses=["127.0.0.1:1"], ca_der=b"ca", invite_id=secrets.token_bytes(16)),
)
DIGEST = sha256(b"update").digest()
TASK = Task(
    terms=Terms(b"l" * 16, "run", 1, 0, b"", 0, 7, b"m" * 32, 1_000, 60.0),
    state=TaskState.COMMITTING,
    spent_s=0.0,
    steps_done=3,
    steps_total=3,
    sealed=Sealed(DIGEST, 6, 8, 3, 96, 2.0, 1.0),
    upload_id=b"u" * 16,
    reason="",
)


@pytest.fixture
def station(tmp_path):
    home, clock, invitation = Home.at(tmp_path), FakeClock(), invites.read(TOKEN)
    outbox = Outbox.open(home.outbox)
    lookout = Lookout(outbox, FakeSensors(), home.limits, clock, lambda _: None)
    whole, coordinator = recipe(), invitation.coordinator_id
    yield Station(
        home=home,
        outbox=outbox,
        identity=identity_at(home.key),
        membership=Membership(
            MembershipState.READY, TOKEN, "run", "Run", coordinator, whole.to_json(), whole.digest(), "", "/", 1
        ),
        recipe=whole,
        trainer=FakeTrainer(),
        clock=clock,
        rng=np.random.default_rng(0),
        lookout=lookout,
        link=Link(invitation, Alone(), np.random.default_rng(0)),
        tell=lambda _: None,
        on_state=lambda _state, _when: None,
    )
    outbox.close()


def receipt(station: Station, **changed: object) -> Receipt:
    """Return the right receipt for TASK, with fields changed."""
    right = {
        "run_id": "run",
        "client_id": station.identity.client_id,
        "lease_id": TASK.lease_id,
        "round": 1,
        "digest": DIGEST,
        "verdict": VERDICT_ACCEPTED,
        "examples": 8,
        "staleness_weight": 1.0,
        "credit": 8,
        "serial": 5,
    }
    return Receipt(**(right | changed))


def signed(station: Station, message: Receipt, *, key=COORDINATOR, purpose=Purpose.RECEIPT, audience=None) -> Envelope:
    return sign(key, purpose, station.membership.coordinator_id if audience is None else audience, message)


def test_the_right_receipt_is_kept_as_anyone_can_verify_it(station):
    found = kept(station, TASK, signed(station, receipt(station)))

    assert (found.verdict, found.credit, found.serial, found.round) == ("ACCEPTED", 8, 5, 1)
    assert found.received_unix_s == station.clock.wall_s()
    again = opened(
        Envelope.FromString(found.envelope),
        Purpose.RECEIPT,
        station.membership.coordinator_id,
        Receipt,
        signer=invites.read(TOKEN).coordinator_key,
    )
    assert again.digest == DIGEST


@pytest.mark.parametrize(
    "changed",
    [{"run_id": "other"}, {"client_id": "a" * 32}, {"lease_id": b"x" * 16}, {"digest": b"x" * 32}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_receipt_for_something_else_is_refused(station, changed):
    with pytest.raises(BadReceipt, match="not for this one"):
        kept(station, TASK, signed(station, receipt(station, **changed)))


@pytest.mark.parametrize(
    "forged",
    [{"key": Ed25519PrivateKey.generate()}, {"purpose": Purpose.RELEASE}, {"audience": "somebody else"}],
    ids=["another signer", "another purpose", "another coordinator"],
)
def test_a_receipt_that_the_coordinator_did_not_give_is_refused(station, forged):
    with pytest.raises(BadSignature):
        kept(station, TASK, signed(station, receipt(station), **forged))


def test_a_receipt_that_was_changed_on_the_way_is_refused(station):
    envelope = signed(station, receipt(station))
    envelope.payload = receipt(station, credit=8_000).SerializeToString()

    with pytest.raises(BadSignature):
        kept(station, TASK, envelope)


class RecordingLink:
    """A link that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def call(self, _call: object, request: Envelope) -> None:
        self.sent.append(request.SerializeToString())


def test_an_error_that_names_a_file_or_quotes_the_text_stays_on_this_machine(station):
    """The coordinator hears what kind of trouble it was; the volunteer reads all of it."""
    station.link, told = RecordingLink(), []
    station.tell = told.append
    station.outbox.add(TASK.terms)

    station.give_up(TASK, NoFit("/home/me/diary.txt: 'dear diary' cannot be read", fix="remove diary.txt"))

    (sent,) = station.link.sent
    assert b"NoFit" in sent
    assert b"diary" not in sent
    assert Trouble("/home/me/diary.txt: 'dear diary' cannot be read", "remove diary.txt") in told
    assert "dear diary" in station.outbox.task(TASK.lease_id).reason
