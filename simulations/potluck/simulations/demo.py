"""The demonstration: one coordinator and four volunteers as real processes, over TLS on loopback, on real text.

Every number in its outcome was measured in that run.
"""

import json
import os
import queue
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, final

from potluck.aggregation.errors import PotluckError
from potluck.client.home import Home, cache_of_user
from potluck.client.limits import Limits
from potluck.client.status import status_of
from potluck.client.training.completing import completed
from potluck.simulations.arms import Arms
from potluck.simulations.processes import Child, ChildFailed, start
from potluck.simulations.texts import pick, plays, shakespeare, write_role
from potluck.wire.recipe import Recipe

ROLES: Final = (
    "a-midsummer-night-s-dream/PUCK",
    "macbeth/LADY MACBETH",
    "the-tempest/CALIBAN",
    "hamlet/LAERTES",
)
PROMPT: Final = "What, art thou come to speak with me of love?\n"
MARK: Final = "this-is-a-potluck-demo"
TICK_S: Final = 1.0
PATIENCE_S: Final = 1_800.0  # without any word from anybody


class NotOurs(PotluckError):
    """A folder that the demonstration did not make, and will not delete."""


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """How far it is: a stage in words, what is done of how much, and what happened just now."""

    stage: str
    done: int
    total: int
    news: str = ""


@final
@dataclass(slots=True)
class Measured:
    """One volunteer: its text, its traffic, and the loss on its held-out text in nats per token, by arm."""

    name: str
    text_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    tokens: int = 0
    losses: dict[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out."""

    volunteers: tuple[Measured, ...]
    versions: int
    release: Path
    prompt: str
    replies: Mapping[str, str]

    def over_all(self, arm: str) -> float:
        """Return the loss of *arm* over all held-out text: each volunteer weighs what its tokens do."""
        tokens = sum(v.tokens for v in self.volunteers)
        return sum(v.losses[arm] * v.tokens for v in self.volunteers) / tokens


Tell = Callable[[Moment], None]
Event = tuple[str, Mapping[str, Any]]


@final
class Demonstration:
    """One run of it, in one folder."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._folder = folder.absolute()
        self._tell = tell
        self._events: queue.Queue[Event] = queue.Queue()
        self._silent_s = 0.0
        self._cache = cache_of_user(os.environ)
        self._threads = max(1, (os.cpu_count() or 1) // len(ROLES))
        self._volunteers = {name.partition("/")[2].title(): Measured(name.partition("/")[2].title()) for name in ROLES}
        self._data: dict[str, Path] = {}

    def run(self) -> Outcome:
        """Do all of it.

        Raises:
            NotOurs: the folder holds something else.
            ChildFailed: a process ended before its work was done; its log says why.
        """
        recipe = self._prepare()
        with ExitStack() as children:
            release = self._rounds(recipe, children)
        for name, measured in self._volunteers.items():
            traffic = status_of(Home.at(self._home(name))).traffic
            measured.sent_bytes, measured.received_bytes = traffic.sent, traffic.received
        with ExitStack() as children:
            replies = self._arms(recipe, release, children)
        return Outcome(tuple(self._volunteers.values()), recipe.run.versions, release, PROMPT, replies)

    def _prepare(self) -> Recipe:
        """Make the folder, fetch model and text, write each volunteer's share and the recipe."""
        self._clear()
        self._cache.mkdir(parents=True, exist_ok=True)
        written = Recipe.read(recipe_file())
        recipe = completed(written, self._cache, lambda words: self._tell(Moment("preparing", 0, 3, words)))
        self._tell(Moment("preparing", 1, 3))
        roles = shakespeare(plays(self._cache, lambda words: self._tell(Moment("preparing", 1, 3, words))))
        for name, role in zip(self._volunteers, pick(roles, ROLES), strict=True):
            self._data[name] = write_role(self._folder / "text", role, roles[role])
            self._volunteers[name].text_bytes = sum(f.stat().st_size for f in self._data[name].iterdir())
            limits = Limits(on_battery=True, core_share=self._share(), busy_share=1.0, nice=0, min_free_ram_gib=0.25)
            limits.write(Home.at(self._home(name)).limits)
        (self._folder / "recipe.json").write_text(recipe.to_json(), "utf-8")
        self._tell(Moment("preparing", 3, 3))
        return recipe

    def _clear(self) -> None:
        """Empty the folder, if it is ours."""
        if self._folder.exists() and not (self._folder / MARK).exists() and any(self._folder.iterdir()):
            raise NotOurs(f"{self._folder} holds something else", fix="name another folder: --folder FOLDER")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / MARK).touch()

    def _rounds(self, recipe: Recipe, children: ExitStack) -> Path:
        """Host the run, let everybody join, and wait until the last version is out; return its release."""
        listening = [
            "potluck.cli",
            "host",
            str(self._folder / "recipe.json"),
            "--folder",
            str(self._folder / "coordinator"),
        ]
        host = self._start("coordinator", [*listening, "--listen", "127.0.0.1:0", "--json"], {}, children)
        invite = str(self._await("listening", [host])["invite"])
        volunteers = [
            self._start(
                name,
                ["potluck.cli", "join", invite, "--data", str(path), "--name", name, "--yes", "--json"],
                {"POTLUCK_HOME": str(self._home(name))},
                children,
            )
            for name, path in self._data.items()
        ]
        rounds = recipe.run.versions
        total = rounds * recipe.training.steps * len(volunteers)
        steps: dict[tuple[str, int], int] = {}
        at: dict[str, int] = dict.fromkeys(self._data, 0)
        release = ""
        while any(child.process.poll() is None for child in volunteers) or not release:
            name, event = self._next([host, *volunteers])
            news = ""
            match event:
                case {"event": "moved", "state": "TRAINING", "version": version}:
                    at[name] = int(version)
                case {"event": "progressed", "phase": "TRAIN", "done": done}:
                    steps[name, at[name]] = int(done)
                case {"event": "received", "receipt": receipt}:
                    news = f"{name}: update {receipt['verdict'].lower()} in round {receipt['round']}"
                case {"event": "version", "version": version, "release": path}:
                    news = f"version {version} of the shared adapter is out"
                    release = str(path) if version == rounds else release
            self._tell(Moment(f"training together, {rounds} rounds", min(total, sum(steps.values())), total, news))
        for child in volunteers:
            child.wait(60)
        host.stop()
        return Path(release)

    def _arms(self, recipe: Recipe, release: Path, children: ExitStack) -> dict[str, str]:
        """Measure base, shared and alone for everybody; return what base and shared reply to the prompt."""
        running: list[Child] = []
        for name, path in self._data.items():
            job = self._folder / "arms" / f"{path.name}.json"
            job.parent.mkdir(exist_ok=True)
            prompt = "" if running else PROMPT
            arms = Arms(
                recipe.to_json(), str(self._cache), str(path), str(release), recipe.run.versions, prompt
            )  # fmt: skip
            job.write_text(json.dumps(asdict(arms)), "utf-8")
            running.append(self._start(name, ["potluck.simulations.arms", str(job)], {}, children))
        total = recipe.run.versions * recipe.training.steps * len(running)
        steps: dict[str, int] = {}
        replies: dict[str, str] = {}
        while any(child.process.poll() is None for child in running) or not self._events.empty():
            name, event = self._next(running)
            news = ""
            match event:
                case {"event": "step", "done": done}:
                    steps[name] = int(done)
                case {"event": "reply", "arm": arm, "text": text}:
                    replies[arm] = str(text)
                case {"event": "measured", "arm": arm, "loss": loss, "tokens": tokens}:
                    self._volunteers[name].losses[arm] = float(loss)
                    self._volunteers[name].tokens = int(tokens)
                    news = f"{name}: {arm} {loss:.3f}"
            self._tell(Moment("each alone, and measuring", sum(steps.values()), total, news))
        for child in running:
            child.wait(60)
        return replies

    def _start(self, name: str, module: list[str], env: Mapping[str, str], children: ExitStack) -> Child:
        """Start a child that ends with *children* at the latest."""
        shared = {
            "POTLUCK_CACHE": str(self._cache),
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads of one process must not spin on the cores of another
            "TOKENIZERS_PARALLELISM": "false",
        }
        log = self._folder / "logs" / f"{name.replace(' ', '-').lower()}-{len(list(self._folder.glob('logs/*')))}.log"
        child = start(name, module, log=log, env={**shared, **env}, hear=lambda *event: self._events.put(event))
        children.callback(child.stop)
        return child

    def _await(self, kind: str, children: list[Child]) -> Mapping[str, Any]:
        """Return the next event of that kind, and pass over others."""
        while True:
            _, event = self._next(children)
            if event.get("event") == kind:
                return event

    def _next(self, children: list[Child]) -> Event:
        """Return what is heard next; ("", {}) now and then where nothing is.

        Raises:
            ChildFailed: a child ended with an error, or nobody said anything for half an hour.
        """
        try:
            event = self._events.get(timeout=TICK_S)
        except queue.Empty:
            self._silent_s += TICK_S
            for child in children:
                if child.process.poll() not in (None, 0):
                    raise child.failure() from None
            if self._silent_s > PATIENCE_S:
                raise ChildFailed(
                    f"nothing was heard for {PATIENCE_S:.0f} s", fix=f"see {self._folder / 'logs'}"
                ) from None
            return "", {}
        self._silent_s = 0.0
        return event

    def _home(self, name: str) -> Path:
        return self._folder / "homes" / name.replace(" ", "-").lower()

    def _share(self) -> float:
        """Return the share of the cores that one volunteer may use."""
        return min(1.0, (self._threads + 0.01) / (os.cpu_count() or 1))


def recipe_file() -> Path:
    """Return the demonstration's recipe."""
    return Path(str(files("potluck.simulations") / "recipes" / "demo.toml"))
