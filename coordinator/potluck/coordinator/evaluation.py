"""A judge in a process of its own, so that the coordinator needs no torch, keeps its memory, and goes on answering.

One JSON object a line, both ways.  The first line that is sent says what to measure with, and is answered by what was
found; every other asks for one adapter.  What cannot be done is answered by {"error": …, "fix": …}.  The process ends
when its input does, however its coordinator ended.
"""

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Self, final

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.probe import Closing, Measured

DEADLINE_S: Final = 3_600.0
"""Longest time for one answer; a large model on a slow machine may take many minutes."""
PATIENCE_S: Final = 10.0
"""Longest time that a process may take to end after its input did."""


class CannotMeasure(PotluckError):
    """The probe, or an adapter on it, could not be measured."""


@final
@dataclass(frozen=True, slots=True)
class Talk:
    """A process at work, and the thread that hears it."""

    process: "subprocess.Popen[str]"
    lines: "SimpleQueue[str]"
    listener: threading.Thread

    @classmethod
    def begin(cls, command: Sequence[str]) -> Self:
        """Start the process."""
        process = subprocess.Popen(  # noqa: S603 - our own words only
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C at the terminal is for its coordinator, which ends it
        )
        lines: SimpleQueue[str] = SimpleQueue()
        listener = threading.Thread(target=_listen, args=(process, lines), name="probe", daemon=True)
        listener.start()
        return cls(process, lines, listener)

    def ask(self, question: Mapping[str, Any], deadline_s: float) -> str:
        """Send one line and return the one that answers, or an empty text where none came."""
        if self.process.stdin is None:
            return ""
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            return self.lines.get(timeout=deadline_s)
        except (OSError, ValueError, Empty):
            return ""

    def end(self) -> int:
        """End the process, and return its exit status."""
        self.process.kill()
        status = self.process.wait(PATIENCE_S)
        self.listener.join(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent is of no use to anybody
                    pipe.close()
        return status


@final
class EvaluationProcess:
    """Asks a process; a Judge.  Where it has died, or was too slow, the next question starts another."""

    def __init__(self, command: Sequence[str], terms: Mapping[str, Any], deadline_s: float = DEADLINE_S) -> None:
        """*command* starts the process; *terms* is the first line that it is sent."""
        self._command = tuple(command)
        self._terms = dict(terms)
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._talk: Talk | None = None
        self._closed = threading.Event()
        self._digest = ""

    @property
    def digest(self) -> str:
        return self._digest

    def open(self) -> int:
        """Start the process and let it read the probe; return over how many tokens it will measure.

        Raises:
            CannotMeasure: it cannot, with the reason that it gave.
        """
        with self._lock:
            return int(self._begun()["tokens"])

    def measure(self, adapter: Path | None) -> Measured:
        with self._lock:
            if self._talk is None:
                self._begun()
            answer = self._asked({"adapter": "" if adapter is None else str(adapter)})
        loss = answer["loss"]
        return Measured(float("nan") if loss is None else float(loss), int(answer["tokens"]))

    def close(self) -> None:
        """End the process at once; it holds nothing that is not on disk."""
        self._closed.set()
        talk = self._talk
        if talk is not None:
            talk.process.kill()  # whoever waits for its answer gets none, and lets go of the lock
        with self._lock:
            self._end()

    def _begun(self) -> Mapping[str, Any]:
        """Start the process and let it read the probe."""
        self._end()
        self._talk = Talk.begin(self._command)
        try:
            found = self._asked(self._terms)
        except CannotMeasure:
            self._end()
            raise
        self._digest = str(found["digest"])
        return found

    def _asked(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer to one question."""
        line = "" if self._talk is None or self._closed.is_set() else self._talk.ask(question, self._deadline_s)
        if not line:
            status = self._end()
            if self._closed.is_set():
                raise Closing("the coordinator stops")
            raise CannotMeasure(
                f"the process that measures the probe ended with {status}, or gave no answer within "
                f"{self._deadline_s:.0f} s",
                fix="look at what it printed; one that runs out of memory ends with -9",
            )
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise CannotMeasure(str(answer["error"]), fix=str(answer.get("fix", "")))
        return answer

    def _end(self) -> int | None:
        """Let go of the process; return its exit status, if there was one."""
        talk, self._talk = self._talk, None
        return None if talk is None else talk.end()


def _listen(process: "subprocess.Popen[str]", lines: "SimpleQueue[str]") -> None:
    """Hand on what the process says, and an empty line at its end."""
    if process.stdout is not None:
        for line in process.stdout:
            lines.put(line)
    lines.put("")
