"""Potluck's own commands as child processes on this machine, heard through their JSON lines."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from potluck.aggregation.errors import PotluckError

Hear = Callable[[str, Mapping[str, Any]], None]
_SHOWN_LINES = 12


class ChildFailed(PotluckError):
    """One of the demonstration's processes ended before its work was done."""


@final
@dataclass(frozen=True, slots=True)
class Child:
    """A running child: its name, its process, and where its stderr goes."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    reader: threading.Thread

    def wait(self, timeout_s: float) -> None:
        """Wait for the child to end by itself.

        Raises:
            ChildFailed: it ended with an error, or not within *timeout_s* seconds.
        """
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self.name} did not end within {timeout_s:.0f} s", fix=f"see {self.log}") from None
        self.reader.join(timeout_s)
        if status != 0:
            raise self.failure()

    def failure(self) -> ChildFailed:
        """Return what there is to say about a child that ended too early."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        return ChildFailed(
            f"{self.name} ended with status {self.process.poll()}: " + " | ".join(lines), fix=f"see {self.log}"
        )

    def stop(self, grace_s: float = 10.0) -> None:
        """End the child: ask, wait, then kill."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(grace_s)


def start(name: str, module: Sequence[str], *, log: Path, env: Mapping[str, str], hear: Hear) -> Child:
    """Run `python -m MODULE ARGUMENTS…`; call *hear*(name, event) for each line of JSON on its stdout.

    *hear* runs on a thread of the child's own.  A line that is not JSON goes to the log beside stderr.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with log.open("a", encoding="utf-8") as errors:  # both append: neither writes over the other's lines
        process = subprocess.Popen(  # noqa: S603 - our own modules only
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **env},
        )
    reader = threading.Thread(target=_listen, args=(name, process, log, hear), daemon=True)
    reader.start()
    return Child(name, process, log, reader)


def _listen(name: str, process: "subprocess.Popen[str]", log: Path, hear: Hear) -> None:
    """Pass on each line of the child's stdout until it closes."""
    if process.stdout is None:
        return
    with process.stdout, log.open("a", encoding="utf-8") as also:
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                hear(name, event)
            else:
                also.write(line)
                also.flush()
