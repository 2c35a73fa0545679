"""A refusal crosses the wire whole: code, words, fix, and whether to try again."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from potluck.aggregation.errors import BadTensor, PotluckError
from potluck.wire.envelopes import BadSignature
from potluck.wire.invites import BadInvite
from potluck.wire.refusals import CODES, Refusal, detail, refusal_of, refuse
from potluck.wire.v1 import blobs_pb2, blobs_pb2_grpc


class Refusing(blobs_pb2_grpc.BlobsServicer):
    """A service that says no."""

    def __init__(self, error: PotluckError) -> None:
        self.error = error

    def Stat(self, request: blobs_pb2.StatRequest, context: grpc.ServicerContext) -> blobs_pb2.WriteReply:  # noqa: N802
        refuse(context, self.error)


def over_the_wire(error: PotluckError) -> Refusal:
    """Return what a client sees when a real server refuses with *error*."""
    server = grpc.server(ThreadPoolExecutor(1))
    blobs_pb2_grpc.add_BlobsServicer_to_server(Refusing(error), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            blobs_pb2_grpc.BlobsStub(channel).Stat(blobs_pb2.StatRequest(), timeout=10)
        return refusal_of(caught.value)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("full", code="disk_full", fix="make room"), "disk_full"),
        (BadTensor("wrong", fix="make room"), "bad_tensor"),
        (BadInvite("wrong", fix="make room"), "bad_invite"),
        (BadSignature("wrong", fix="make room"), "bad_signature"),
        (PotluckError("wrong", fix="make room"), "bad_request"),
    ],
)
def test_a_refusal_arrives_as_it_was_sent(error: PotluckError, code: str):
    found = over_the_wire(error)

    assert (found.code, str(found), found.fix) == (code, str(error), "make room")
    assert found.retryable is CODES[code].retryable


def test_a_server_may_say_when_to_come_back():
    assert over_the_wire(Refusal("busy", code="overloaded", retry_in_s=2.5)).retry_in_s == 2.5


def test_a_hostile_text_cannot_push_the_code_out():
    assert over_the_wire(BadTensor("x" * 100_000)).code == "bad_tensor"


def test_no_server_at_all_is_worth_another_try():
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
        blobs_pb2_grpc.BlobsStub(channel).Stat(blobs_pb2.StatRequest(), timeout=5)

    found = refusal_of(caught.value)
    assert (found.code, found.retryable) == ("unavailable", True)


def test_every_refusal_says_what_to_do():
    assert all(detail(Refusal("no", code=code)).fix for code in CODES)


def test_an_unknown_code_is_not_tried_again():
    assert not Refusal("no", code="from_the_future").retryable
