"""The gRPC face.  A servicer decides nothing: it admits the call, hands it on, and turns errors into refusals."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import grpc

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.admission import Admission, Kind
from potluck.coordinator.checkins import CheckIns
from potluck.coordinator.downloads import Downloads
from potluck.coordinator.intake import Intake
from potluck.coordinator.membership import Membership
from potluck.coordinator.reception import Reception
from potluck.coordinator.store.database import Superseded
from potluck.coordinator.summing import Sums
from potluck.coordinator.uploads import Uploads
from potluck.wire.channels import CONTROL_BYTES
from potluck.wire.refusals import Refusal, refuse
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

LOG = logging.getLogger(__name__)


@contextmanager
def _refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what a peer can put right into its refusal, and our own defects into one that blames nobody."""
    try:
        yield
    except Superseded:
        refuse(context, Refusal("another coordinator took over", code="unavailable", fix="try again", retry_in_s=5))
    except PotluckError as error:
        refuse(context, error)
    except Exception:  # the edge: a defect of ours must answer the peer and blame nobody
        LOG.exception("event=internal_error peer=%s", context.peer())
        refuse(context, Refusal("the coordinator failed; the fault is its own", code="internal", retry_in_s=60))


def _small(envelope: Envelope) -> Envelope:
    """Return a signed request of the size that requests have; nothing hashes megabytes for a stranger."""
    if len(envelope.payload) > CONTROL_BYTES:
        raise Refusal(
            f"a request of {len(envelope.payload)} bytes", code="too_large", fix=f"send at most {CONTROL_BYTES}"
        )
    return envelope


@final
@dataclass(frozen=True, slots=True)
class EnrollmentService(enrollment_pb2_grpc.EnrollmentServicer):
    """Serves enrollment.proto."""

    admission: Admission
    membership: Membership

    def About(  # noqa: N802 - gRPC's name
        self, request: enrollment_pb2.AboutRequest, context: grpc.ServicerContext
    ) -> enrollment_pb2.AboutReply:
        with _refusing(context), self.admission.admitted(Kind.MEMBERSHIP):
            return self.membership.about(request)

    def Enroll(self, request: Envelope, context: grpc.ServicerContext) -> enrollment_pb2.EnrollReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.MEMBERSHIP):
            return self.membership.enroll(_small(request))

    def Leave(self, request: Envelope, context: grpc.ServicerContext) -> enrollment_pb2.LeaveReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.MEMBERSHIP):
            return self.membership.leave(_small(request))


@final
@dataclass(frozen=True, slots=True)
class WorkService(work_pb2_grpc.WorkServicer):
    """Serves work.proto."""

    admission: Admission
    check_ins: CheckIns
    uploads: Uploads
    intake: Intake

    def CheckIn(self, request: Envelope, context: grpc.ServicerContext) -> work_pb2.CheckInReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.CHECK_IN):
            return self.check_ins.check_in(_small(request))

    def Renew(self, request: Envelope, context: grpc.ServicerContext) -> work_pb2.RenewReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.check_ins.renew(_small(request))

    def Offer(self, request: Envelope, context: grpc.ServicerContext) -> work_pb2.OfferReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.uploads.offer(_small(request))

    def Submit(self, request: Envelope, context: grpc.ServicerContext) -> work_pb2.SubmitReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.SUBMIT):
            return self.intake.submit(_small(request))

    def Abort(self, request: Envelope, context: grpc.ServicerContext) -> work_pb2.AbortReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.check_ins.abort(_small(request))


@final
@dataclass(frozen=True, slots=True)
class BlobsService(blobs_pb2_grpc.BlobsServicer):
    """Serves blobs.proto."""

    admission: Admission
    uploads: Uploads
    downloads: Downloads

    def Write(  # noqa: N802 - gRPC's name
        self, request: blobs_pb2.WriteRequest, context: grpc.ServicerContext
    ) -> blobs_pb2.WriteReply:
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.uploads.write(request)

    def Stat(self, request: blobs_pb2.StatRequest, context: grpc.ServicerContext) -> blobs_pb2.WriteReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.uploads.stat(request)

    def Read(self, request: Envelope, context: grpc.ServicerContext) -> blobs_pb2.ReadReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.READ):
            return self.downloads.read(_small(request))


@final
@dataclass(frozen=True, slots=True)
class SumsService(sums_pb2_grpc.SumsServicer):
    """Serves sums.proto."""

    admission: Admission
    reception: Reception
    sums: Sums

    def Meet(self, request: Envelope, context: grpc.ServicerContext) -> sums_pb2.MeetReply:  # noqa: N802 - gRPC's name
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.reception.meet(_small(request))

    def Step(self, request: Envelope, context: grpc.ServicerContext) -> sums_pb2.StepReply:  # noqa: N802
        with _refusing(context), self.admission.admitted(Kind.WRITE):
            return self.sums.step(_small(request))
