"""The process that measures: its answers, its errors, and that neither death nor silence is taken for a loss."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from potluck.coordinator.evaluation import CannotMeasure, EvaluationProcess
from potluck.coordinator.probe import Closing, Measured

PROGRAM = """
import json, os, sys, time
def say(**facts):
    print(json.dumps(facts), flush=True)
terms = json.loads(sys.stdin.readline())
with open(terms["starts"], "a") as file:
    file.write("x")
if "groups" in terms:
    with open(terms["groups"], "w") as file:
        file.write(str(os.getpgid(0)))
if terms.get("refuse"):
    say(error="there is no text", fix="name a folder")
    sys.exit()
say(digest="cd" * 32, tokens=12)
for line in sys.stdin:
    asked = json.loads(line)["adapter"]
    if asked.endswith("die") and os.path.getsize(terms["starts"]) == 1:
        os._exit(3)
    if asked.endswith("sleep"):
        time.sleep(60)
    if asked.endswith("error"):
        say(error="the blob is damaged", fix="")
    else:
        say(loss=None if asked.endswith("nan") else 2.5, tokens=12)
"""


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    """A file with one character for every start of the process."""
    return tmp_path / "starts"


@pytest.fixture
def asking(tmp_path: Path, starts: Path):
    made: list[EvaluationProcess] = []

    def ask(deadline_s: float = 30.0, **terms: object) -> EvaluationProcess:
        script = tmp_path / "probe.py"
        script.write_text(PROGRAM, "utf-8")
        made.append(EvaluationProcess([sys.executable, str(script)], {"starts": str(starts), **terms}, deadline_s))
        return made[-1]

    yield ask
    for one in made:
        one.close()


def test_one_process_answers_all_questions(asking, starts: Path):
    judge = asking()

    assert judge.open() == 12
    assert judge.measure(None) == judge.measure(Path("adapter")) == Measured(2.5, 12)
    assert judge.digest == "cd" * 32
    assert starts.read_text() == "x"


def test_a_loss_that_is_no_number_arrives_as_one(asking):
    assert math.isnan(asking().measure(Path("nan")).loss)


def test_what_cannot_be_opened_is_told_with_the_reason(asking):
    with pytest.raises(CannotMeasure, match="there is no text") as caught:
        asking(refuse=True).open()

    assert caught.value.__notes__ == ["fix: name a folder"]


def test_an_error_leaves_the_process_for_the_next_question(asking, starts: Path):
    judge = asking()

    with pytest.raises(CannotMeasure, match="the blob is damaged"):
        judge.measure(Path("error"))

    assert judge.measure(None).loss == 2.5
    assert starts.read_text() == "x"


def test_a_process_that_died_is_told_and_started_again(asking, starts: Path):
    judge = asking()

    with pytest.raises(CannotMeasure, match="ended with 3"):
        judge.measure(Path("die"))

    assert judge.measure(Path("die")).loss == 2.5
    assert starts.read_text() == "xx"


def test_a_process_that_is_silent_is_ended(asking):
    judge = asking(deadline_s=0.2)
    judge.open()

    with pytest.raises(CannotMeasure, match="no answer within 0 s"):
        judge.measure(Path("sleep"))


def test_closing_gives_up_the_question_under_way(asking):
    """Ctrl-C must not wait for a large model."""
    judge, caught = asking(), []
    judge.open()

    def ask() -> None:
        with pytest.raises(Closing):
            judge.measure(Path("sleep"))
        caught.append(True)

    thread = threading.Thread(target=ask)
    began_s = time.monotonic()
    thread.start()
    judge.close()
    thread.join(20)

    assert caught == [True]
    assert time.monotonic() - began_s < 20
    with pytest.raises(Closing):
        judge.measure(None)


def test_ctrl_c_at_the_terminal_does_not_reach_the_process(asking, starts: Path):
    """It would print its own traceback over the coordinator's goodbye."""
    judge = asking(groups=str(starts) + ".group")
    judge.open()

    group = int(starts.with_name("starts.group").read_text())
    assert group != os.getpgid(0)


def test_the_process_ends_when_its_coordinator_does(tmp_path: Path, starts: Path):
    """Kill -9 of the coordinator closes the pipe, and nobody else ends the process."""
    script, ended = tmp_path / "probe.py", tmp_path / "ended"
    script.write_text(PROGRAM + f"\nopen({str(ended)!r}, 'w').write('in good order')\n", "utf-8")
    parent = (
        "import os, signal, sys; from potluck.coordinator.evaluation import EvaluationProcess as E;"
        f"E([sys.executable, {str(script)!r}], {json.dumps({'starts': str(starts)})}).open();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", parent], check=False, timeout=30).returncode == -9

    end_s = time.monotonic() + 20
    while not ended.exists() and time.monotonic() < end_s:
        threading.Event().wait(0.02)
    assert ended.read_text() == "in good order"
