"""Potluck's commands as the real processes that a person starts: run to their end, or heard while they work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from potluck.client.home import Home
from potluck.client.limits import Limits

PATIENCE_S = 120.0  # a busy machine with two cores; a good one needs a twentieth of it
PROGRAM = (sys.executable, "-m", "potluck.cli")
WORDS = ("cat", "dog", "hen", "fox", "cow", "owl", "elk", "ant")


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit status and what it said."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def fixes(self) -> list[str]:
        """The lines that say what to do."""
        return [line.strip() for line in self.said.splitlines() if line.strip().startswith("fix:")]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was said as JSON, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(home: Path) -> dict[str, str]:
    """Return what a command of the test runs in: a home of its own, one thread, no network beyond this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_")}
    return kept | {
        "POTLUCK_HOME": str(home),
        "POTLUCK_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def potluck(
    *words: object, home: Path, cwd: Path | None = None, program: tuple[str, ...] = PROGRAM, passphrase: str = ""
) -> Done:
    """Run one command to its end, with nobody at the terminal; a *passphrase* is in its environment."""
    done = subprocess.run(
        [*program, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(home) | ({"POTLUCK_PASSPHRASE": passphrase} if passphrase else {}),
        cwd=cwd,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Running:
    """A command at work, with --json; what it says is kept as it comes."""

    process: subprocess.Popen[str]
    errors: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    _heard: int = 0
    _news: Condition = field(default_factory=Condition)
    _reader: Thread | None = None
    _closed: bool = False

    def hear(self) -> None:
        self._reader = Thread(target=self._listen, daemon=True)
        self._reader.start()

    def until(self, wanted: Callable[[dict[str, Any]], bool], patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the next event that is *wanted*, of those not passed over before; wait for it."""
        end_s = time.monotonic() + patience_s
        with self._news:
            while True:
                while self._heard < len(self.events):
                    self._heard += 1
                    if wanted(self.events[self._heard - 1]):
                        return self.events[self._heard - 1]
                left_s = end_s - time.monotonic()
                if self._closed or left_s <= 0:
                    raise AssertionError(
                        f"it never came; status {self.process.poll()}, the last: {self.events[-5:]}, "
                        f"stderr: {self.errors.read_text('utf-8')[-2000:]}"
                    )
                self._news.wait(left_s)

    def told(self, kind: str, **facts: object) -> dict[str, Any]:
        """Return the next event of that *kind* with these *facts*."""
        return self.until(lambda event: event["event"] == kind and facts.items() <= event.items())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, patience_s: float = PATIENCE_S) -> Done:
        """Wait for its end."""
        status = self.process.wait(patience_s)
        assert self._reader is not None
        self._reader.join(patience_s)
        out = "".join(json.dumps(event) + "\n" for event in self.events)
        return Done(status, out, self.errors.read_text("utf-8"))

    def kill(self) -> None:
        """End it as a power cut would, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._reader is not None:
            self._reader.join()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with self._news:
                    self.events.append(json.loads(line))
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()


@dataclass
class Stage:
    """Where commands run: a folder, and every process that was started in it."""

    folder: Path
    running: list[Running] = field(default_factory=list)

    def start(self, *words: object, home: Path) -> Running:
        """Start a command that goes on working; it ends with the test at the latest."""
        errors = self.folder / f"stderr-{len(self.running)}"
        with errors.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [*PROGRAM, *map(str, words), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env=environment(home),
            )
        made = Running(process, errors)
        made.hear()
        self.running.append(made)
        return made


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    made = Stage(folder)
    try:
        yield made
    finally:
        for running in made.running:
            running.kill()


def calm_home(folder: Path) -> Path:
    """Make a home whose owner lets it work at any time; the gate has tests of its own."""
    home = Home.at(folder, folder / "cache")
    Limits(on_battery=True, busy_share=1.0, nice=0, min_free_ram_gib=0.0, min_free_disk_gib=0.0).write(home.limits)
    return folder


def notes(folder: Path, seed: int = 0) -> Path:
    """Write a volunteer's text: a dozen samples, others for each *seed*."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(3):
        told = [
            f"{WORDS[(seed + i) % 8]} number {n}.{i} sat beside the {WORDS[(seed + n) % 8]}. " * 8 for i in range(4)
        ]
        (folder / f"note-{n}.md").write_text("\n\n".join(told), "utf-8")
    return folder


def recipe_text(base: object, **tables: Mapping[str, object]) -> str:
    """Return a recipe as a person writes it, small and quick, with *tables* changed."""
    whole: dict[str, dict[str, object]] = {
        "run": {"name": "tiny", "purpose": "To be tested.", "versions": 2},
        "model": {"base": str(base)},
        "adapter": {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]},
        "data": {"max_tokens": 48, "held_out": 0.2},
        "training": {"steps": 6, "batch": 2, "learning_rate": 2e-2, "checkpoint_steps": 2},
        "aggregation": {"cohort": 2},
        "limits": {"poll_min_s": 0.2, "poll_max_s": 0.4},
    }
    for name, table in tables.items():
        whole[name] = whole.get(name, {}) | dict(table)
    lines = []
    for name, table in whole.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def recipe_at(path: Path, base: object, **tables: Mapping[str, object]) -> Path:
    """Write recipe_text to *path*."""
    path.write_text(recipe_text(base, **tables), "utf-8")
    return path
