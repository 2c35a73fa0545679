"""What a coordinator takes is what its recipe says: other codecs, or other settings, are refused with the reason."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinators import Hosted, hosting
from potluck.aggregation import encode
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Protocol
from scripted import SPOKEN, Volunteer, recipe

CODEC = {"name": "sparse2bit", "settings": {"chunk": 64, "k": 4}, "error_feedback": True}


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    with hosting(tmp_path / "coordinator", recipe(codec=CODEC, aggregation={"cohort": 9})) as made:
        yield made


def tensors() -> dict[str, np.ndarray]:
    made = {}
    for layer in (0, 1):
        made[f"model.layers.{layer}.self_attn.q_proj.lora_A"] = np.full((2, 12), 0.5, np.float32)
        made[f"model.layers.{layer}.self_attn.q_proj.lora_B"] = np.full((16, 2), 0.25, np.float32)
    return made


@pytest.mark.parametrize(
    "data",
    [
        encode(tensors(), "sparse2bit", chunk=64, k=4),
        encode(tensors(), "sparse2bit", lossless=True, chunk=64, k=4),
        encode(tensors(), "int8", block=8),
        encode(tensors(), "fp32"),
    ],
    ids=["the recipe's", "compressed", "finer", "exact"],
)
def test_the_recipes_codec_and_finer_ones_are_taken(hosted: Hosted, data: bytes):
    volunteer = hosted.volunteer()

    assert volunteer.deliver(volunteer.lease(), data).verdict == pb.VERDICT_ACCEPTED


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encode(tensors(), "int4"), "encoded as int4, and this run takes sparse2bit, int8, fp16, fp32"),
        (encode(tensors(), "topk"), "encoded as topk"),
        (encode(tensors(), "fp64"), "encoded as fp64"),
        (encode(tensors(), "sparse2bit", chunk=64, k=1), "sparse2bit with k 1, and the recipe says 4"),
    ],
    ids=["coarser", "another sparse one", "wider", "other settings"],
)
def test_any_other_is_rejected_with_what_would_be_taken(hosted: Hosted, data: bytes, says: str):
    volunteer = hosted.volunteer()

    reply = volunteer.deliver(volunteer.lease(), data)

    assert reply.verdict == pb.VERDICT_REJECTED
    assert says in reply.rejected.human
    assert reply.rejected.code == "bad_tensor"
    assert reply.rejected.fix


def asked(volunteer: Volunteer, *capabilities: str) -> pb.CheckInReply:
    """Check in as a client that says it can do this."""
    request = volunteer.check_in_request()
    request.protocol.CopyFrom(Protocol(oldest=SPOKEN.oldest, newest=SPOKEN.newest, capabilities=capabilities))
    return volunteer.send_check_in(request)


def test_a_client_that_can_write_nothing_that_is_taken_is_told_before_it_works(hosted: Hosted):
    reply = asked(hosted.volunteer(), "codec:int4", "codec:fp64")

    assert reply.WhichOneof("answer") == "upgrade_required"
    assert "takes updates as sparse2bit, int8, fp16, fp32" in reply.upgrade_required.human
    assert reply.poll_window.max_s > 0


@pytest.mark.parametrize("capabilities", [(), ("watch",), ("codec:fp32",), ("codec:int4", "codec:sparse2bit")])
def test_a_client_that_can_write_one_of_them_gets_work(hosted: Hosted, capabilities):
    """One that does not speak of codecs is believed, and hears of it at its first update."""
    assert asked(hosted.volunteer(), *capabilities).WhichOneof("answer") == "lease"


def test_a_round_of_several_codecs_is_combined(tmp_path: Path):
    """Nothing that was taken is lost to a codec later."""
    with hosting(tmp_path / "coordinator", recipe(codec=CODEC, aggregation={"cohort": 3})) as hosted:
        for data in (
            encode(tensors(), "sparse2bit", lossless=True, chunk=64, k=4),
            encode(tensors(), "int8"),
            encode(tensors(), "fp16", lossless=True),
        ):
            volunteer = hosted.volunteer()
            assert volunteer.deliver(volunteer.lease(), data).verdict == pb.VERDICT_ACCEPTED

        assert hosted.coordinator.wait_for_version(1, 20.0)
        assert hosted.coordinator.history().versions[0].contributors == 3
