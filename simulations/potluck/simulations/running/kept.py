"""A run's folder: what it is, where it stands, and the bytes that it still needs."""

import hashlib
import os
import shutil
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from potluck.aggregation.errors import PotluckError
from potluck.client.errors import DiskFull
from potluck.client.home import NO_ROOM, store
from potluck.simulations.reports.tables import CLIENTS, ROUNDS, UPDATES, read_rows, write_rows
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow
from potluck.simulations.running.standing import Standing
from potluck.wire.settings import Settings

RECIPE: Final = "recipe.json"
SCENARIO: Final = "scenario.json"
ASKED: Final = "asked.json"
STANDING: Final = "standing.json"
_ADAPTER: Final = TypeAdapter(Standing)


class AnotherRun(PotluckError):
    """A folder that holds another run, or one that is not to be gone on with."""


class BadState(PotluckError):
    """A run's state that is damaged."""


@final
class Asked(Settings):
    """What has to stay as it was when a run goes on."""

    clients: PositiveInt
    """Clients in the world."""
    at_once: PositiveInt
    """Clients that an engine is handed at once: who shares a batch decides the last bits."""
    engine: str = "batched"
    """The engine that trains."""
    dtype: str = "native"
    """In what numbers base models compute: native is what a volunteer's own program picks on this machine."""
    threads: PositiveInt = 1
    """Threads of each worker: they too decide the last bits."""
    measured: int = Field(default=0, ge=0)
    """Clients on whose held-out text versions are measured."""
    measure_every: PositiveInt = 1
    """Rounds from one measurement to the next."""
    fit: bool = True
    """Whether engines may take fewer at once, as the machine's memory has it."""
    own_losses: bool = False
    """Whether clients measure before and after their training, as volunteers do."""


@final
@dataclass(slots=True)
class Rows:
    """What a run has written down."""

    rounds: list[RoundRow] = field(default_factory=list)
    updates: list[UpdateRow] = field(default_factory=list)


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes by their SHA-256: in memory until they are saved, and then on the disk."""

    folder: Path
    _new: dict[str, bytes] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        """Keep *data*; return its name."""
        name = hashlib.sha256(data).hexdigest()
        self._new[name] = data
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes called *name*.

        Raises:
            BadState: they are gone or damaged.
        """
        if name in self._new:
            return self._new[name]
        path = self.folder / name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != name:
            raise BadState(f"{path} is gone or damaged", fix="start the run anew, in another folder")
        return data

    def save(self, needed: AbstractSet[str]) -> None:
        """Put on the disk what is *needed* and new.

        A kill loses none of it; after a power cut some of it may be damaged, which `get` then says.

        Raises:
            DiskFull: there is no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in needed & self._new.keys():
                path = self.folder / name
                if not path.exists():
                    (new := path.with_name(name + ".new")).write_bytes(self._new[name])
                    os.replace(new, path)  # noqa: PTH105 - atomic on every system, where rename is not
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFull(f"no room in {self.folder}", fix="make room, then go on with --resume") from None

    def forget_others(self, needed: AbstractSet[str]) -> None:
        """Delete all that is not *needed*; only after the state that needed it is gone too."""
        for name in self._new.keys() - needed:
            del self._new[name]
        for path in self.folder.iterdir():
            if path.name not in needed:
                path.unlink()


@final
@dataclass(frozen=True, slots=True)
class Folder:
    """A run on the disk: after a kill it stands where its last round ended."""

    root: Path
    kept: Kept = field(init=False)
    blobs: Kept = field(init=False)
    """Checkpoints and adapters."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", Kept(self.state / "kept"))
        object.__setattr__(self, "blobs", Kept(self.root / "blobs"))

    @property
    def state(self) -> Path:
        """Where the state is."""
        return self.root / "state"

    @property
    def begun(self) -> bool:
        """Whether a run was begun here and its first state is whole."""
        return (self.state / STANDING).exists()

    def begin(self, recipe: str, scenario: str, asked: Asked) -> None:
        """Write down what the run is.

        Raises:
            AnotherRun: something else is here.
        """
        if self.begun:
            raise AnotherRun(f"{self.root} holds a run already", fix="go on with --resume, or name another --folder")
        if self.root.exists() and any(self.root.iterdir()) and not (self.root / RECIPE).exists():
            raise AnotherRun(f"{self.root} is not empty, and holds no run", fix="name another folder: --folder")
        self.state.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.root / "data", ignore_errors=True)
        for name, text in ((RECIPE, recipe), (SCENARIO, scenario)):
            store(text.encode(), self.root / name)
        store(asked.model_dump_json().encode(), self.state / ASKED)

    def see_that_it_is(self, recipe: str, scenario: str) -> Asked:
        """Return how the run here was asked for.

        Raises:
            AnotherRun: there is none, or it is of another recipe or scenario.
        """
        asked = self.asked()
        for name, text in ((RECIPE, recipe), (SCENARIO, scenario)):
            if (self.root / name).read_text("utf-8") != text:
                raise AnotherRun(
                    f"{self.root} holds a run of another {name.removesuffix('.json')}",
                    fix="give the same one as before, or another folder: --folder",
                )
        return asked

    def asked(self) -> Asked:
        """Return how the run here was asked for.

        Raises:
            AnotherRun: there is none.
        """
        if not self.begun:
            raise AnotherRun(f"{self.root} holds no run to go on with", fix="leave --resume out to begin one")
        return Asked.parse((self.state / ASKED).read_bytes())

    def save(self, standing: Standing, rows: Rows, clients: list[ClientRow]) -> None:
        """Write all down; the state is the last, and it counts the rows that belong to it.

        Raises:
            DiskFull: there is no room; the state before is whole.
        """
        needed = standing.needed()
        versions = {name for one in standing.versions.values() for name in (one.checkpoint, one.adapter) if name}
        self.kept.save(needed)
        self.blobs.save(versions)
        write_rows(self.root / ROUNDS, rows.rounds, RoundRow)
        write_rows(self.root / UPDATES, rows.updates, UpdateRow)
        write_rows(self.root / CLIENTS, clients, ClientRow)
        standing.rounds_written, standing.updates_written = len(rows.rounds), len(rows.updates)
        store(_ADAPTER.dump_json(standing), self.state / STANDING)
        self.kept.forget_others(needed)
        self.blobs.forget_others(versions)

    def load(self) -> tuple[Standing, Rows]:
        """Return where the run stands.

        Raises:
            BadState: its state is damaged.
            BadTable: so are its rows.
        """
        try:
            standing = _ADAPTER.validate_json((self.state / STANDING).read_bytes())
        except ValidationError as error:
            raise BadState(
                f"{self.state / STANDING} is damaged: {error.error_count()} values", fix="start the run anew"
            ) from None
        rounds = read_rows(self.root / ROUNDS, RoundRow)[: standing.rounds_written]
        updates = read_rows(self.root / UPDATES, UpdateRow)[: standing.updates_written]
        return standing, Rows(rounds, updates)
