"""The one thread that combines rounds, and keeps everything beside the database up to date with it."""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Final, final

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.combine import combine_rounds
from potluck.coordinator.log import LogFile
from potluck.coordinator.participation import Standstill, standstill
from potluck.coordinator.presence import Presence
from potluck.coordinator.probe import Closing
from potluck.coordinator.progress import due, look, turn
from potluck.coordinator.releases import publish_missing
from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books, Superseded, check_fence
from potluck.coordinator.summing import Sums
from potluck.coordinator.traffic import Traffic

LOG = logging.getLogger(__name__)
TICK_S: Final = 0.5
"""Longest time until a deadline, or what another process wrote into the database, is noticed."""
FLUSH_S: Final = 5.0
"""Longest time until what is only in memory, and may be lost in a crash, is written down."""
LONGEST_S: Final = 30.0
"""Longest time until what failed is tried again."""


@final
@dataclass(slots=True)
class Worker:
    """Combines rounds whose inputs are fixed, ends rounds whose time ran out, writes releases and the log."""

    site: Site
    presence: Presence
    traffic: Traffic
    sums: Sums
    trouble: str = field(default="", init=False)
    in_charge: bool = field(default=True, init=False)
    _flushed_s: float = field(default=0.0, init=False)
    _pause_s: float = field(default=TICK_S, init=False)
    _closed: bool = field(default=False, init=False)
    """Whether the probe was closed while a round was judged."""
    _looked: int = field(default=-1, init=False)
    """Changes of the database after which it was looked whether the run can go on."""
    _still: Standstill | None = field(default=None, init=False)
    _settled: int = field(default=-1, init=False)
    """The last version whose release is written."""
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _news: threading.Condition = field(default_factory=threading.Condition, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="combine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being done, and end."""
        self._stopping.set()
        self.site.bell.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait_for_version(self, version: int, timeout_s: float) -> bool:
        """Wait until *version* is committed and released; return whether it is."""
        with self._news:
            return self._news.wait_for(lambda: self._settled >= version or not self.in_charge, timeout_s) and (
                self._settled >= version
            )

    def _run(self) -> None:
        log = LogFile(self.site)
        while self.in_charge:
            self.site.bell.clear()  # before the question, or the bell of stop() could be missed
            stopping = self._stopping.is_set()
            self._once(log, stopping=stopping)
            if stopping or self._closed:  # once more after the last call, so that nothing stays unwritten
                return
            self.site.bell.wait(self._pause_s)

    def _once(self, log: LogFile, *, stopping: bool) -> None:
        """Do all there is to do.  What fails is told and tried again; one that cannot combine still serves."""
        try:
            self._tend()
            self._flush(at_once=stopping)
            self.sums.tend()
            combine_rounds(self.site)
            with self.site.store.reading() as books:
                version = books.run().version
            if version != self._settled:  # whoever sees the version sees the bytes that made it, too
                self._flush(at_once=True)
            log.follow()  # first: a release that cannot be written must not silence the log
            if version != self._settled:
                publish_missing(self.site)
            self._tell(version)
            self.trouble, self._pause_s = "", TICK_S
        except Superseded as error:
            LOG.warning("event=superseded reason=%s", error)
            self.trouble, self.in_charge = str(error), False
            self._tell(self._settled)
        except Closing:  # the round stays as it is; combining it once more now would be in vain
            self._flush(at_once=True)
            self._closed = True
        except PotluckError as error:
            self._fail(str(error))
        except Exception as error:  # the thread's edge: told as trouble, tried again, and the serving goes on
            LOG.exception("event=worker_failed")
            self._fail(f"{type(error).__name__}: {error}")

    def _tend(self) -> None:
        """Learn what other processes wrote, and end a round whose time ran out."""
        with self.site.store.reading() as books:
            run = books.run()
            check_fence(self.site.fence, run.fence)
            self.site.store.noticed(run.changes)
            happened = due(self.site, books)
            self._look_ahead(books)
        if happened:
            with turn(self.site):
                pass  # before and after it, the round is where it belongs

    def _look_ahead(self, books: Books) -> None:
        """Say once where the run cannot go on by itself: its clients wait, and only its operator can end that."""
        changes = self.site.store.changes
        if changes == self._looked:
            return
        found = standstill(self.site.plan.recipe, books, look(books, self.site.clock.now_s()))
        if found is not None and found != self._still:
            LOG.warning("event=standstill reason=%s fix=%s", found.reason, found.way_out)
        self._looked, self._still = changes, found

    def _flush(self, *, at_once: bool) -> None:
        """Write down who was here and how many bytes went by, which changes no answer."""
        now_s = time.monotonic()
        if not (self.presence.unsaved or self.traffic.unsaved) or (now_s - self._flushed_s < FLUSH_S and not at_once):
            return
        with self.site.store.writing(self.site.fence, counts=False) as books:
            self.presence.save(books)
            self.traffic.save(books)
        self._flushed_s = now_s

    def _fail(self, words: str) -> None:
        if words != self.trouble:
            LOG.warning("event=trouble reason=%s", words)
        self.trouble, self._pause_s = words, min(LONGEST_S, 2 * self._pause_s)
        with self._news:
            self._news.notify_all()

    def _tell(self, version: int) -> None:
        with self._news:
            self._settled = version
            self._news.notify_all()
