"""The coordinator: the one page that wires all of it."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self, final

import grpc

from potluck.aggregation.errors import PotluckError
from potluck.aggregation.products import Mapped
from potluck.coordinator.admission import THREADS, Admission
from potluck.coordinator.checkins import CheckIns
from potluck.coordinator.clock import Clock, SystemClock
from potluck.coordinator.desk import Desk, History, Status
from potluck.coordinator.downloads import Downloads
from potluck.coordinator.health import health_service
from potluck.coordinator.intake import Intake
from potluck.coordinator.invites import WEEK_S
from potluck.coordinator.keys import live_credentials
from potluck.coordinator.membership import Membership
from potluck.coordinator.opening import Around, FolderLock, open_site
from potluck.coordinator.presence import Presence
from potluck.coordinator.probe import Probe
from potluck.coordinator.reception import Reception
from potluck.coordinator.service import BlobsService, EnrollmentService, SumsService, WorkService
from potluck.coordinator.site import Site
from potluck.coordinator.steps import OnStep, no_step
from potluck.coordinator.store.records import Version
from potluck.coordinator.summing import Sums
from potluck.coordinator.traffic import Traffic
from potluck.coordinator.under_way import Standing
from potluck.coordinator.uploads import Uploads
from potluck.coordinator.worker import Worker
from potluck.wire.channels import server_options
from potluck.wire.recipe import Recipe
from potluck.wire.v1 import blobs_pb2_grpc, enrollment_pb2_grpc, sums_pb2_grpc, work_pb2_grpc

LOG = logging.getLogger(__name__)
MAX_CALLS: Final = 64
"""Calls under way or queued; gRPC itself turns away the rest."""
WINDOWS_MISSED: Final = 2
"""A client that stayed away for so many of the longest poll windows is not waiting any more."""


@final
class CannotListen(PotluckError):
    """The address cannot be listened on."""


@final
class Coordinator:
    """A run, hosted: open it, listen, stop it.  Everything durable is in its folder."""

    def __init__(self, site: Site, lock: FolderLock) -> None:
        self._site = site
        self._lock = lock
        self._desk = Desk(site)
        self._presence = Presence(site.plan.recipe.limits.poll_max_s * WINDOWS_MISSED)
        self._traffic = Traffic()
        self._uploads = Uploads(site, self._traffic)
        self._sums = Sums(site, self._uploads)
        self._worker = Worker(site, self._presence, self._traffic, self._sums)
        self._server: grpc.Server | None = None

    @classmethod
    def open(  # noqa: PLR0913 - the one door, and all but the first two have a default
        cls,
        folder: Path,
        recipe: Recipe,
        *,
        clock: Clock | None = None,
        on_step: OnStep = no_step,
        database_url: str | None = None,
        probe: Probe | None = None,
        mapped: Mapped = map,
    ) -> Self:
        """Open the run in *folder*, or begin it with *recipe*; finish what a crash interrupted once it listens.

        With a *probe*, a new version that is worse on it is refused, and the one before it stays.  *mapped* runs the
        passes over a round's modules, elsewhere if it likes; they must see this folder.

        Raises:
            InUse: a coordinator is at work in the folder.
            OtherRecipe: the folder's run cannot go on with this recipe, or the recipe is incomplete.
        """
        lock = FolderLock.take(folder)
        try:
            site = open_site(folder, recipe, Around(clock or SystemClock(), on_step, database_url, probe, mapped))
            made = cls(site, lock)
            with site.store.reading() as books:
                made._presence.load(books.members.all())
        except BaseException:
            lock.release()
            raise
        return made

    def listen(self, address: str = "0.0.0.0:0") -> int:
        """Serve on *address* ("host:port", port 0 for any free one) and combine rounds; return the port.

        Raises:
            CannotListen: the address is in use, or is none of this machine's.
        """
        admission = Admission()
        uploads = self._uploads
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="call"),
            options=server_options(),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        enrollment_pb2_grpc.add_EnrollmentServicer_to_server(
            EnrollmentService(admission, Membership(self._site)), server
        )
        work_pb2_grpc.add_WorkServicer_to_server(
            WorkService(admission, CheckIns(self._site, self._presence), uploads, Intake(self._site)), server
        )
        blobs_pb2_grpc.add_BlobsServicer_to_server(
            BlobsService(admission, uploads, Downloads(self._site, self._traffic)), server
        )
        sums_pb2_grpc.add_SumsServicer_to_server(
            SumsService(admission, Reception(self._site, self._sums), self._sums), server
        )
        server.add_generic_rpc_handlers((health_service(lambda: self._worker.in_charge),))
        try:
            port = server.add_secure_port(address, live_credentials(self._site.folders.keys, self._site.clock))
        except RuntimeError as error:
            raise CannotListen(f"cannot listen on {address}: {error}", fix="choose another port or address") from None
        self._worker.start()
        server.start()
        self._server = server
        LOG.info("event=listening port=%d coordinator=%s", port, self._site.keys.coordinator_id)
        return port

    @property
    def desk(self) -> Desk:
        """What the operator can see and do."""
        return self._desk

    def invite(self, addresses: Sequence[str], uses: int = 1, expires_s: float = WEEK_S) -> str:
        """Return the token of a new invite for *uses* clients, good for *expires_s* seconds."""
        return self._desk.invites.make(addresses, uses, expires_s)

    def status(self) -> Status:
        """Return where the run stands."""
        return self._desk.status()

    @property
    def summing(self) -> Standing | None:
        """Where the secure sum stands that is under way, if there is one."""
        return self._sums.standing()

    def history(self) -> History:
        """Return what has happened."""
        return self._desk.history()

    def rollback(self, version: int) -> Version:
        """Make *version* the present one again, as a new version; return the new one."""
        made = self._desk.rollback(version)
        self._site.bell.set()
        return made

    def pause(self) -> None:
        """Give out no new work."""
        self._desk.pause()

    def resume(self) -> None:
        """Give out work again."""
        self._desk.resume()

    @property
    def trouble(self) -> str:
        """What keeps rounds from being combined at the moment, in words; empty if nothing does."""
        return self._worker.trouble

    @property
    def in_charge(self) -> bool:
        """Whether no other coordinator has taken over this run."""
        return self._worker.in_charge

    def wait_for_version(self, version: int, timeout_s: float) -> bool:
        """Wait until *version* is committed and released; return whether it is."""
        return self._worker.wait_for_version(version, timeout_s)

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no more calls, give those under way *grace_s* seconds, finish the round being combined, let go.

        What is being measured on the probe is given up, and that round judged when the coordinator starts again.
        """
        if self._server is not None:
            self._server.stop(grace_s).wait()
            self._server = None
        if self._site.probe is not None:
            self._site.probe.judge.close()
        self._worker.stop()
        self._site.store.close()
        self._lock.release()
