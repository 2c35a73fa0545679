"""What the operator can see and do, from the coordinator's own process or from any other on the same folder.

The database is where they meet: a command writes there, and the coordinator at work finds it there.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, final

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.blobs import Partials
from potluck.coordinator.clock import Clock, SystemClock
from potluck.coordinator.invites import InviteBook
from potluck.coordinator.keys import open_keys
from potluck.coordinator.membership import end_membership
from potluck.coordinator.participation import standstill
from potluck.coordinator.phases import Event, Phase
from potluck.coordinator.progress import abandon, drop_stale, look, turn
from potluck.coordinator.renewal import again
from potluck.coordinator.site import DATABASE_FILE, Folders, Site, plan_of
from potluck.coordinator.steps import no_step
from potluck.coordinator.store.database import Books, NoRun, Store
from potluck.coordinator.store.records import Contribution, RoundRecord, Standing, Version
from potluck.coordinator.trust import RoundReport
from potluck.wire.recipe import Recipe

SHOWN_VERSIONS: Final = 5
SHOWN_ROUNDS: Final = 100


class BadCommand(PotluckError):
    """Something the operator asked for that cannot be done."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where the run stands."""

    run_id: str
    run_name: str
    coordinator_id: str
    version: int
    last_version: int
    """0 means no end."""
    paused: bool
    round: int | None
    phase: Phase | None
    received: int
    """k of K: updates that the open round has."""
    cohort: int
    """K: updates that close a round."""
    least_summed: int
    """Updates that a secure sum has at least; 0 where updates are read one by one."""
    combining: int
    """Rounds whose inputs are fixed and that made no version yet."""
    members: int
    leases: int
    """Leases with time left, of all rounds."""
    bytes_in: int
    bytes_out: int
    versions: tuple[Version, ...]
    """The last few, the newest first."""
    last: RoundReport | None
    """The round that ended last."""
    standstill: str
    """Why the run cannot go on by itself, and what to do about it; empty: it can."""

    @property
    def done(self) -> bool:
        """Whether the run has reached its last version."""
        return 0 < self.last_version <= self.version


@dataclass(frozen=True, slots=True)
class History:
    """What has happened."""

    versions: tuple[Version, ...]
    """All, the newest first."""
    rounds: tuple[RoundRecord, ...]
    """The last hundred, the newest first."""
    contributions: tuple[Contribution, ...]
    """What each client has given, the largest first."""
    reports: tuple[RoundReport, ...]
    """What the log tells of the last hundred rounds that ended, the newest first."""


@final
@dataclass(frozen=True, slots=True)
class Desk:
    """The operator's view of one coordinator."""

    site: Site

    @classmethod
    def open(cls, folder: Path, *, clock: Clock | None = None, database_url: str | None = None) -> Self:
        """Open the desk of the coordinator in *folder*, whether it is at work or not.

        Raises:
            NoRun: nobody has hosted a run there.
        """
        folders = Folders(folder)
        if database_url is None and not (folder / DATABASE_FILE).exists():
            raise NoRun(f"{folder} holds no run", fix="start one with `potluck host RECIPE`, or name its folder")
        used = SystemClock() if clock is None else clock
        store = Store.open(database_url or folders.database_url)
        with store.reading() as books:
            run = books.run()
        return cls(
            Site(
                folders=folders,
                partials=Partials(folder / "partial"),
                store=store,
                keys=open_keys(folders.keys, used.now_s()),
                run_id=run.run_id,
                plan=plan_of(Recipe.offered(run.recipe_json)),
                clock=used,
                on_step=no_step,
                fence=None,
                bell=threading.Event(),
            )
        )

    @property
    def invites(self) -> InviteBook:
        """Making, listing and revoking invites."""
        return InviteBook(self.site)

    def status(self) -> Status:
        """Return where the run stands."""
        site, now_s = self.site, self.site.clock.now_s()
        privacy = site.plan.recipe.privacy
        with site.store.reading() as books:
            run, now = books.run(), look(books, now_s)
            return Status(
                run_id=site.run_id,
                run_name=site.plan.recipe.run.name,
                coordinator_id=site.keys.coordinator_id,
                version=run.version,
                last_version=site.plan.terms.last_version,
                paused=run.paused,
                round=now.round,
                phase=now.phase,
                received=now.received,
                cohort=site.plan.terms.cohort,
                least_summed=privacy.cohort_minimum if privacy.secure_aggregation else 0,
                combining=now.combining,
                members=books.members.active(),
                leases=books.leases.alive(now_s),
                bytes_in=run.bytes_in,
                bytes_out=run.bytes_out,
                versions=books.versions.last(SHOWN_VERSIONS),
                last=next(iter(reports_of(books, 0, 1)), None),
                standstill=str(standstill(site.plan.recipe, books, now) or ""),
            )

    def history(self) -> History:
        """Return what has happened."""
        with self.site.store.reading() as books:
            return History(
                books.versions.last(),
                books.rounds.last(SHOWN_ROUNDS),
                books.members.contributions(),
                reports_of(books, 0, SHOWN_ROUNDS),
            )

    def reports(self, after: int = 0, count: int = SHOWN_ROUNDS) -> tuple[RoundReport, ...]:
        """Return what the log tells of the last *count* rounds above number *after* that ended, the newest first."""
        with self.site.store.reading() as books:
            return reports_of(books, after, count)

    def pause(self) -> None:
        """Give out no new work.  Updates that are under way are taken."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Give out work again."""
        self._set_paused(paused=False)

    def rollback(self, version: int) -> Version:
        """Make *version* the present one again, as a new version after the last; return the new one.

        Nothing is deleted.  Updates that are under way, and those that wait, count at the staleness that this makes,
        or not at all where that is more than the recipe allows; an open synchronous round, whose cohort started from
        what is now withdrawn, is abandoned.

        Raises:
            BadCommand: there is no such version, or it is the present one.
        """
        with turn(self.site) as books:
            run = books.run()
            target = books.versions.find(version)
            if target is None or version == run.version:
                told = "is the present one" if target else "does not exist"
                fix = f"choose one from 0 to {run.version - 1}" if run.version else "wait for the first version"
                raise BadCommand(f"version {version} {told}", fix=fix)
            made = again(self.site, books, target, "rolled_back")
            current = books.rounds.current()
            if current is not None and self.site.plan.terms.synchronous:
                abandon(self.site, books, current, Event.ROLLED_BACK)
            drop_stale(self.site, books)
        return made

    def remove(self, client_id: str) -> None:
        """End a client's membership for good; what it gave to earlier versions stays.

        Raises:
            BadCommand: there is no such client.
        """
        with turn(self.site) as books:
            member = books.members.find(client_id)
            if member is None:
                raise BadCommand(f"there is no client {client_id}", fix="see `potluck history` for the clients")
            if member.standing is not Standing.REVOKED:
                end_membership(self.site, books, client_id, Standing.REVOKED)

    def close(self) -> None:
        """Close the database."""
        self.site.store.close()

    def _set_paused(self, *, paused: bool) -> None:
        with turn(self.site) as books:
            if books.run().paused is not paused:
                books.change_run(paused=paused)
                books.log.append("paused" if paused else "resumed")


def reports_of(books: Books, after: int, count: int) -> tuple[RoundReport, ...]:
    """Return what the log tells of the last *count* rounds above number *after* that ended, the newest first."""
    return tuple(
        RoundReport.read(one.number, one.phase, one.reason, books.log.at(one.log_index).entry)
        for one in books.rounds.ended(after, count)
        if one.log_index is not None
    )
