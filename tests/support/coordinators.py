"""A coordinator on loopback, with a clock that moves only when told to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from potluck.aggregation.products import Mapped
from potluck.coordinator.probe import Probe
from potluck.coordinator.server import Coordinator
from potluck.coordinator.steps import OnStep, no_step
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from scripted import Volunteer


@dataclass
class FakeClock:
    """A clock that moves only when told to."""

    time_s: float = field(default_factory=time.time)  # a certificate made in the future would not be valid yet

    def now_s(self) -> float:
        return self.time_s


@dataclass
class Hosted:
    """A coordinator at work, and the volunteers that know of it."""

    coordinator: Coordinator
    port: int
    clock: FakeClock
    folder: Path
    volunteers: list[Volunteer] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def invite(self, uses: int = 100, expires_s: float = 3_600.0) -> str:
        return self.coordinator.invite([self.address], uses, expires_s)

    def volunteer(self, seed: int = 0, *, token: str | None = None, enroll: bool = True) -> Volunteer:
        """Return a new volunteer, enrolled unless told otherwise."""
        made = Volunteer(token or self.invite(), seed=seed, name=f"volunteer {seed}")
        self.volunteers.append(made)
        if enroll:
            made.enroll()
        return made

    def cohort(self, count: int) -> list[Volunteer]:
        token = self.invite()
        return [self.volunteer(seed, token=token) for seed in range(count)]


@contextmanager
def hosting(
    folder: Path,
    recipe: Recipe,
    *,
    clock: FakeClock | None = None,
    on_step: OnStep = no_step,
    probe: Probe | None = None,
    mapped: Mapped = map,
) -> Iterator[Hosted]:
    """Host *recipe* in *folder* on a free port of loopback."""
    used = clock or FakeClock()
    coordinator = Coordinator.open(folder, recipe, clock=used, on_step=on_step, probe=probe, mapped=mapped)
    hosted = Hosted(coordinator, 0, used, folder)
    try:
        hosted.port = coordinator.listen("127.0.0.1:0")
        yield hosted
    finally:
        for volunteer in hosted.volunteers:
            volunteer.close()
        coordinator.stop(grace_s=1.0)


@contextmanager
def refused(code: str) -> Iterator[None]:
    """The block must end in a refusal with that *code*, and with a fix."""
    try:
        yield
    except Refusal as refusal:
        assert refusal.code == code, (refusal.code, str(refusal))  # noqa: PT017 - a context of our own
        assert refusal.fix  # noqa: PT017
        return
    raise AssertionError(f"nothing was refused; expected {code}")
