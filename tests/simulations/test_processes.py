"""Child processes: heard line by line, reported with their own last words, and never left behind."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from potluck.simulations.processes import Child, ChildFailed, start

PATIENCE_S = 60.0


class Ear:
    """Keeps what a child says."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict]] = []
        self.news = threading.Event()

    def __call__(self, name: str, event) -> None:
        self.heard.append((name, event))
        self.news.set()


@pytest.fixture
def play(tmp_path: Path):
    """Start children that run a script of the test's; all are ended with it."""
    children: list[Child] = []

    def begin(script: str, ear: Ear, **env: str) -> Child:
        (tmp_path / "played.py").write_text(script, "utf-8")
        log = tmp_path / "logs" / "child.log"
        child = start("ann", ["played"], log=log, env={"PYTHONPATH": str(tmp_path), **env}, hear=ear)
        children.append(child)
        return child

    yield begin
    for child in children:
        child.process.kill()
        child.process.wait()


def test_each_line_of_json_is_heard_in_order_and_all_else_goes_to_the_log(play):
    """Neither writer of the log may write over the other's lines."""
    ear = Ear()
    script = """
import json, sys
for n in range(50):
    print(json.dumps({"n": n}), flush=True)
    print(f"words {n:02}", flush=True)
    print(f"trouble {n:02}", file=sys.stderr, flush=True)
print("[1]")
"""
    child = play(script, ear)

    child.wait(PATIENCE_S)

    assert ear.heard == [("ann", {"n": n}) for n in range(50)]
    log = child.log.read_text("utf-8")
    assert re.findall(r"words \d\d", log) == [f"words {n:02}" for n in range(50)]
    assert re.findall(r"trouble \d\d", log) == [f"trouble {n:02}" for n in range(50)]
    assert log.count("\n") == 101
    assert len(log) == 50 * len("words 00\ntrouble 00\n") + len("[1]\n")


def test_a_child_that_fails_is_reported_with_its_last_lines(play):
    script = "import sys\nfor n in range(40): print(f'line {n}', file=sys.stderr)\nsys.exit(3)"
    child = play(script, Ear())

    with pytest.raises(ChildFailed, match=r"ann ended with status 3: line 28 \|.*line 39") as caught:
        child.wait(PATIENCE_S)

    assert "line 27 " not in str(caught.value)
    assert caught.value.__notes__ == [f"fix: see {child.log}"]


def test_a_child_that_does_not_end_is_told_as_that(play):
    child = play("import threading; threading.Event().wait(600)", Ear())

    with pytest.raises(ChildFailed, match="ann did not end within 0 s"):
        child.wait(0.1)

    child.stop()
    assert child.process.poll() == -signal.SIGTERM


def test_stop_asks_first_and_lets_the_child_finish(play):
    ear = Ear()
    script = """
import json, signal, sys, threading
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
print(json.dumps({"ready": True}), flush=True)
while not done.wait(0.05): pass
print(json.dumps({"goodbye": True}), flush=True)
"""
    child = play(script, ear)
    assert ear.news.wait(PATIENCE_S)

    child.stop()

    assert child.process.poll() == 0
    assert ear.heard[-1] == ("ann", {"goodbye": True})
    assert not child.reader.is_alive()


def test_stop_ends_a_child_that_does_not_listen(play):
    ear = Ear()
    script = """
import json, signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"ready": True}), flush=True)
while True: threading.Event().wait(1)
"""
    child = play(script, ear)
    assert ear.news.wait(PATIENCE_S)
    began_s = time.monotonic()

    child.stop(grace_s=0.2)

    assert child.process.poll() == -signal.SIGKILL
    assert time.monotonic() - began_s < PATIENCE_S
    child.stop()  # once more is no mistake


def test_a_child_gets_its_own_environment_and_ours(play):
    ear = Ear()
    script = "import json, os; print(json.dumps({'own': os.environ['OWN'], 'path': os.environ['PATH']}))"

    play(script, ear, OWN="ann's").wait(PATIENCE_S)

    assert ear.heard == [("ann", {"own": "ann's", "path": os.environ["PATH"]})]


def test_a_log_of_an_earlier_child_is_begun_anew(play):
    play("import sys; print('first', file=sys.stderr)", Ear()).wait(PATIENCE_S)
    second = play("import sys; print('second', file=sys.stderr)", Ear())
    second.wait(PATIENCE_S)

    assert second.log.read_text("utf-8") == "second\n"


def test_it_is_this_python_that_runs_the_child(play):
    """A demonstration from an environment must not pick up another one's packages."""
    ear = Ear()

    play("import json, sys; print(json.dumps({'python': sys.executable}))", ear).wait(PATIENCE_S)

    assert ear.heard == [("ann", {"python": sys.executable})]
