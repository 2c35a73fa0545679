"""Where things live on a volunteer's machine, and that one process at a time works there."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self, final

import platformdirs
from filelock import FileLock, Timeout

from potluck.client.errors import DiskFull, HomeInUse

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LOCKS: Final = ("lock", "personal.lock")  # of whoever works in the home, and of who makes a personal adapter there
_PATIENCE_S = 1.0  # somebody who only looks whether the home is in use holds the lock for a moment


@final
@dataclass(frozen=True, slots=True)
class Home:
    """One client: its key, its outbox, its work.  *cache* holds base models, which several homes may share."""

    folder: Path
    cache: Path

    @classmethod
    def at(cls, folder: Path, cache: Path | None = None) -> Self:
        """Return the home in *folder*, made where it is missing, readable by its owner only."""
        home = cls(folder, folder / "cache" if cache is None else cache)
        for needed in (home.folder, home.blobs, home.tasks):
            needed.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.cache.mkdir(parents=True, exist_ok=True)
        return home

    @classmethod
    def of_user(cls, environment: Mapping[str, str]) -> Self:
        """Return the user's home: POTLUCK_HOME and POTLUCK_CACHE, or the system's usual places."""
        folder = environment.get("POTLUCK_HOME") or platformdirs.user_data_dir("potluck", appauthor=False)
        return cls.at(Path(folder).expanduser(), cache_of_user(environment))

    @property
    def key(self) -> Path:
        """The client's Ed25519 key."""
        return self.folder / "identity.key"

    @property
    def outbox(self) -> Path:
        """The database of the outbox."""
        return self.folder / "client.sqlite"

    @property
    def limits(self) -> Path:
        """What the owner allows, as TOML."""
        return self.folder / "limits.toml"

    @property
    def ledger(self) -> Path:
        """What was told of the owner's text, line by line."""
        return self.folder / "ledger.jsonl"

    @property
    def sums(self) -> Path:
        """Which secure sums this client was in, and which of its updates were revealed, line by line."""
        return self.folder / "sums.txt"

    @property
    def ledger_client(self) -> Path:
        """Under which client's id the ledger's witness is kept, where a purge ended that client and left the ledger."""
        return self.folder / "ledger.client"

    def witness(self, client_id: str) -> Path:
        """Return what remembers how long that client's ledger is, outside the home where the cache is outside it.

        It stays the same one when the home is purged and becomes another client.
        """
        kept = self.ledger_client.read_text("utf-8").strip() if self.ledger_client.exists() else client_id
        return self.cache / "ledgers" / f"{kept}.json"

    @property
    def bare(self) -> bool:
        """Whether there is nothing of a client's here: no key, limits, work or personal adapter.  A ledger may be."""
        files, folders = (self.key, self.limits, self.sums), (self.blobs, self.tasks, self.personal_folder)
        return not any(path.exists() for path in files) and not any(
            any(folder.iterdir()) for folder in folders if folder.exists()
        )

    def sums_witness(self, client_id: str) -> Path:
        """Return what remembers the same of that client's record of secure sums."""
        return self.cache / "sums" / f"{client_id}.json"

    @property
    def blobs(self) -> Path:
        """Files named by their SHA-256."""
        return self.folder / "blobs"

    @property
    def tasks(self) -> Path:
        """A folder of checkpoints for each lease."""
        return self.folder / "tasks"

    @property
    def personal_folder(self) -> Path:
        """The owner's personal adapters, one for each run, sealed."""
        return self.folder / "personal"

    def personal(self, run_id: str) -> Path:
        """Return where the owner's personal adapter over that run's shared one is, sealed, or would be."""
        return self.personal_folder / f"{sha256(run_id.encode()).hexdigest()[:32]}.sealed"

    def blob(self, digest: bytes) -> Path:
        """Return where the bytes with that SHA-256 are, or would be."""
        return self.blobs / digest.hex()

    def task(self, lease_id: bytes) -> Path:
        """Return the folder of that lease, made where it is missing."""
        folder = self.tasks / lease_id.hex()
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def drop_task(self, lease_id: bytes) -> None:
        """Remove the folder of that lease, checkpoints and all."""
        shutil.rmtree(self.tasks / lease_id.hex(), ignore_errors=True)

    @property
    def in_use(self) -> bool:
        """Whether a process works in this home now."""
        try:
            with self.occupied(patience_s=0):
                return False
        except HomeInUse:
            return True

    @contextmanager
    def occupied(self, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        """Work in this home, alone, until the block ends; a killed process leaves nothing behind.

        Raises:
            HomeInUse: another process works here.
        """
        refusal = HomeInUse(
            f"potluck already runs in {self.folder}",
            fix="look at it with `potluck status`, stop it with `potluck finish`, "
            "or give the second one a home of its own: POTLUCK_HOME=OTHER-FOLDER potluck join ...",
        )
        with _alone(self.folder / LOCKS[0], refusal, patience_s):
            yield

    @contextmanager
    def personalizing(self, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        """Make a personal adapter in this home, alone, until the block ends; a session may go on beside it.

        Raises:
            HomeInUse: another process does.
        """
        refusal = HomeInUse(
            f"`potluck personalize` works in {self.folder} now",
            fix="wait until it has ended, or end it with Ctrl-C, then give the same command again",
        )
        with _alone(self.folder / LOCKS[1], refusal, patience_s):
            yield

    def purge(self, client_id: str = "") -> None:
        """Remove the home with key, outbox and receipts; the cache of base models stays, and so does the ledger.

        What was told of the text cannot be taken back, so that joining again does not begin with a new budget.  The
        ledger's witness stays too, and which one it is: that of *client_id*, if the home had a client.

        Raises:
            HomeInUse: a process works here, or makes a personal adapter.
        """
        with self.occupied(), self.personalizing():
            if client_id and self.witness(client_id).exists() and not self.ledger_client.exists():
                store(client_id.encode(), self.ledger_client)
            for inside in self.folder.iterdir():
                if inside.name in {*LOCKS, self.ledger.name, self.ledger_client.name} or inside == self.cache:
                    continue
                shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
        for name in LOCKS:
            (self.folder / name).unlink(missing_ok=True)


@contextmanager
def _alone(path: Path, refusal: HomeInUse, patience_s: float) -> Iterator[None]:
    """Hold the lock at *path* until the block ends, or raise *refusal*."""
    lock = FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


def cache_of_user(environment: Mapping[str, str]) -> Path:
    """Return where the user's base models are: POTLUCK_CACHE, or the system's usual place."""
    cache = environment.get("POTLUCK_CACHE") or platformdirs.user_cache_dir("potluck", appauthor=False)
    return Path(cache).expanduser()


def store(data: bytes, path: Path, *, secret: bool = False) -> None:
    """Put *data* at *path*; after a crash there is all of it or nothing: write, fsync, rename, fsync the folder.

    *secret*: nobody but its owner may read it, at no moment.

    Raises:
        DiskFull: there is no room.
    """
    temporary = path.with_name(path.name + ".new")
    if secret:
        temporary.unlink(missing_ok=True)  # of a crash; below it has to be a file of our own making
    try:
        with open(temporary, "xb" if secret else "wb", opener=_closed if secret else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull(f"no room for {len(data)} bytes in {path.parent}", fix="make room; it is tried again") from None
    settle(temporary, path)


def _closed(path: str, flags: int) -> int:
    """Open a file so that, where it is made, only its owner may read it."""
    return os.open(path, flags, 0o600)


def settle(temporary: Path, path: Path) -> None:
    """Give the fsynced file *temporary* its name *path*, for good."""
    os.replace(temporary, path)  # noqa: PTH105 - atomic on every system, where rename is not
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See to it that what was made or renamed in *folder* is there after a loss of power."""
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is in the journal
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
