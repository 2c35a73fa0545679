"""Stand-ins for the client's seams: a clock, sensors and a trainer that do what a test says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from potluck.aggregation.errors import PotluckError
from potluck.client.clock import Clock, SystemClock
from potluck.client.endings import Ended
from potluck.client.events import Happening, When
from potluck.client.gate import Power, Reading
from potluck.client.home import Home
from potluck.client.identity import identity_at
from potluck.client.join import enrol
from potluck.client.link import Alone, Link, Patience
from potluck.client.outbox.store import Outbox
from potluck.client.preflight import Preflight, Site
from potluck.client.records import Control, Membership
from potluck.client.sensors import Sensors
from potluck.client.session import Around, Session
from potluck.client.tasks import TaskState
from potluck.client.work import Job, Stride, Trained, Trainer, Word
from potluck.wire.tensors import Manifest

IDLE = Reading(Power.MAINS, None, 0.0, 1 << 40, 1 << 40)
QUICK = Patience(first_s=0.01, longest_s=0.05, for_good_s=0.05)


@dataclass
class FakeClock:
    """Two clocks that move only when told to."""

    time_s: float = 1_000.0
    wall_ahead_s: float = 1.7e9

    def monotonic_s(self) -> float:
        return self.time_s

    def wall_s(self) -> float:
        return self.time_s + self.wall_ahead_s

    def sleep(self, seconds: float) -> None:
        """Let the machine sleep: only the wall clock goes on."""
        self.wall_ahead_s += seconds


@dataclass
class FakeSensors:
    """Sensors that read what the test has set, and the owner's pause."""

    reading: Reading = IDLE

    def read(self, control: Control) -> Reading:
        r = self.reading
        return Reading(
            r.power,
            r.battery_share,
            r.other_cpu_share,
            r.free_ram_bytes,
            r.free_disk_bytes,
            paused=control.paused,
            paused_until_unix_s=control.paused_until_unix_s,
        )


class NoFit(PotluckError):
    """What a fake trainer raises when it is told to fail."""


@dataclass
class FakeTrainer:
    """Takes steps that cost nothing; what comes out depends on *seed* and the version alone."""

    seed: int = 0
    steps: int = 3
    fails: int = 0  # so many times prepare() raises
    on_step: Callable[[Stride], None] = lambda _: None
    taken: list[int] = field(default_factory=list)

    def prepare(self, job: Job) -> None:
        if self.fails:
            self.fails -= 1
            raise NoFit("the base model does not fit", fix="get a larger machine")
        assert job.adapter is None or sha256(job.adapter.read_bytes()).hexdigest() == job.adapter.name

    def train(self, job: Job, on_step: Callable[[Stride], Word]) -> Trained | None:
        checkpoint = job.folder / "steps"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        while done < self.steps:
            done += 1
            self.taken.append(done)
            checkpoint.write_text(str(done))
            self.on_step(Stride(done, self.steps))
            if on_step(Stride(done, self.steps, loss=1.0)) is not Word.GO:
                return None
        return Trained(
            fake_deltas(job, self.seed), examples=8, steps=self.steps, tokens=96, loss_before=2, loss_after=1
        )


def fake_deltas(job: Job, seed: int) -> dict[str, np.ndarray]:
    """Return the deltas that a fake trainer finds, whatever happened on the way."""
    manifest = Manifest.of(job.recipe, job.version)
    rng = np.random.default_rng([seed, job.version])
    return {name: 0.1 * rng.standard_normal(shape, dtype=np.float32) for name, shape in manifest.entries}


@dataclass
class Client:
    """A client in a folder of its own: enrol it, then run sessions in it."""

    folder: Path
    seed: int = 0
    clock: Clock = field(default_factory=SystemClock)
    sensors: Sensors = field(default_factory=FakeSensors)
    events: list[Happening] = field(default_factory=list)
    states: list[tuple[TaskState, When]] = field(default_factory=list)
    tick_s: float = 0.01

    @property
    def home(self) -> Home:
        return Home.at(self.folder / "home")

    def site(self) -> Site:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Site(
            clock=self.clock,
            link=lambda invitation: Link(invitation, Alone(), np.random.default_rng(0)),
            reading=IDLE,
            data=self.folder,
            count_examples=lambda _path, _recipe: 37,
        )

    def enrol(self, token: str) -> Membership:
        """Join with everything said yes to."""
        preflight = Preflight(token, self.site())
        list(preflight)
        outbox = Outbox.open(self.home.outbox)
        try:
            return enrol(preflight, preflight.card(), f"client {self.seed}", outbox, identity_at(self.home.key))
        finally:
            outbox.close()

    def session(self, outbox: Outbox, trainer: Trainer, *, watch: Callable[[Happening], None] | None = None) -> Session:
        def on_event(happening: Happening) -> None:
            self.events.append(happening)
            if watch is not None:
                watch(happening)

        around = Around(
            clock=self.clock,
            sensors=lambda _home, _clock: self.sensors,
            patience=QUICK,
            tick_s=self.tick_s,
            seed=self.seed,
            on_event=on_event,
            on_state=lambda state, when: self.states.append((state, when)),
        )
        return Session(self.home, outbox, trainer, around)

    def run(
        self, trainer: Trainer | None = None, *, watch: Callable[[Happening, Session], None] | None = None
    ) -> Ended:
        """Run one session to its end; *watch* sees every event, with the session."""
        outbox = Outbox.open(self.home.outbox)
        seen: list[Session] = []
        try:
            session = self.session(
                outbox,
                trainer or FakeTrainer(self.seed),
                watch=None if watch is None else lambda happening: watch(happening, seen[0]),
            )
            seen.append(session)
            return session.run()
        finally:
            outbox.close()

    def ask(self, control: Control) -> None:
        """Ask for something as another process would."""
        outbox = Outbox.open(self.home.outbox)
        outbox.ask(control)
        outbox.close()
