"""The program as a whole: its help, its exit statuses, and what a verb says where there is nothing to do it to."""

import json
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.main import get_command

from commands import PROGRAM, potluck
from potluck.cli.app import app
from potluck.client.gate import UNKNOWN
from potluck.client.limits import Limits, limits_at
from potluck.client.personal import Wish

COMMANDS = get_command(app).commands
BUG = "from potluck.cli.app import app, main\n@app.command()\ndef boom(): raise ZeroDivisionError('by zero')\nmain()"
WHOLE = f'[run]\nname = "a"\n[model]\nbase = "b"\ndigest = "{"ab" * 32}"\nmodules = {{q = [4, 4]}}\n'
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from potluck.cli.app import main; main()"


def test_the_help_names_every_command(home):
    done = potluck("--help", home=home)

    assert done.status == 0
    assert all(name in done.out for name in COMMANDS)
    assert done.err == ""
    assert not home.exists()  # to ask is not to begin


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_s_help_names_its_options(command, name: str):
    done = command(name, "--help")

    assert done.status == 0
    assert all(option in done.out for param in COMMANDS[name].params for option in param.opts if option.startswith("-"))
    assert COMMANDS[name].help.split(":")[0].split(".")[0][:60] in done.out
    arguments = [param for param in COMMANDS[name].params if param.param_type_name == "argument"]
    hints = get_type_hints(COMMANDS[name].callback, include_extras=True)
    assert all(hints[one.name].__metadata__[0].help in " ".join(done.out.split()) for one in arguments)


def test_personalize_says_what_it_does_unless_told_otherwise(command):
    wish, said = Wish(), " ".join(command("personalize", "--help").out.split())

    assert f"Its rank; {wish.rank} unless told otherwise." in said
    assert f"step size; {wish.learning_rate:g} unless told otherwise." in said
    assert (wish.steps, wish.proximal, wish.gated, wish.share_a) == (0, 0.0, True, False)
    assert "default: (" not in said


STATUSES = {
    "done": (PROGRAM, ("limits", "--json"), 0, '"core_share": 0.5'),
    "nothing asked": (PROGRAM, (), 2, "Usage"),
    "the user can fix it": (PROGRAM, ("verify", "nowhere"), 1, "error: nowhere does not exist"),
    "no such command": (PROGRAM, ("jion",), 2, "No such command 'jion'"),
    "an argument is missing": (PROGRAM, ("verify",), 2, "Missing argument"),
    "an option that is none": (PROGRAM, ("host", "recipe.toml", "--port", "1"), 2, "No such option"),
    "a span that is none": (PROGRAM, ("invite", "--expires", "soon"), 2, "'soon' is no span of time"),
    "our bug": ((sys.executable, "-c", BUG), ("boom",), 70, "ZeroDivisionError: by zero"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_the_exit_status_tells_a_script_what_to_do(home, tmp_path, case: str):
    program, words, status, said = STATUSES[case]

    done = potluck(*words, home=home, cwd=tmp_path, program=program)

    assert done.status == status, done.said
    assert said in done.said
    assert ("Traceback" in done.err) == (status == 70)


@pytest.mark.parametrize("words", [("pause",), ("pause", "2h"), ("resume",), ("finish",), ("leave", "--yes")])
def test_a_volunteer_s_verb_without_a_run_says_how_to_join_one(command, words):
    done = command(*words)

    assert done.status == 1
    assert "error: this home is a member of no run" in done.err
    assert done.fixes == ["fix: join one: potluck join INVITE --data FOLDER"]


@pytest.mark.parametrize("words", [("try", "hello"), ("export", "--to", "out")])
def test_there_is_nothing_to_use_without_a_run(command, tmp_path, words):
    done = command(*words)

    assert done.status == 1
    assert "error: this home is a member of no run" in done.err
    assert len(done.fixes) == 1
    assert not (tmp_path / "out").exists()


def test_join_alone_says_what_it_needs(command):
    done = command("join")

    assert done.status == 1
    assert "error: this home is in no run yet" in done.err
    assert done.fixes == ["fix: join one: potluck join INVITE --data FOLDER"]


def test_a_person_who_only_looks_is_told_kindly(command):
    """To look is no mistake: the status is 0."""
    status, history, as_json = command("status"), command("history"), command("status", "--json")

    assert (status.status, history.status, as_json.status) == (0, 0, 0)
    assert "this home is in no run; join one" in status.out
    assert "no receipts yet" in history.out
    assert as_json.lines[0]["membership"] is None
    assert as_json.lines[0]["traffic"] == {"sent": 0, "received": 0}


@pytest.mark.parametrize("words", [("invite",), ("rollback", "1")])
def test_an_operator_s_verb_without_a_run_asks_for_the_folder(command, tmp_path, words):
    none = command(*words)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "host.json").write_text("{}", "utf-8")
    two = command(*words)

    assert (none.status, two.status) == (1, 1)
    assert "error: 0 runs are hosted from here" in none.err
    assert "error: 2 runs are hosted from here: one, two" in two.err
    assert none.fixes == two.fixes == ["fix: name the coordinator's folder: --folder FOLDER"]


@pytest.mark.parametrize("words", [("status",), ("history",), ("invite",), ("rollback", "1")])
def test_a_folder_without_a_run_is_left_alone(command, tmp_path, words):
    missing = command(*words, "--folder", "nowhere")
    (tmp_path / "holiday").mkdir()
    other = command(*words, "--folder", "holiday")

    assert (missing.status, other.status) == (1, 1)
    assert "error: nowhere holds no run" in missing.err
    assert "error: holiday holds no run" in other.err
    assert "fix: start one with `potluck host RECIPE`, or name its folder" in missing.err
    assert not (tmp_path / "nowhere").exists()
    assert not list((tmp_path / "holiday").iterdir())


def test_a_path_that_cannot_be_used_is_the_user_s_to_mend(command, home):
    """Not a traceback: nobody but the user can know why a file is there."""
    home.write_text("not a folder", "utf-8")

    done = command("status")

    assert done.status == 1
    assert str(home) in done.err
    assert len(done.fixes) == 1


def test_limits_are_shown_changed_and_read_back(command, home):
    before = command("limits")
    changed = command("limits", "core_share=0.25", "on-battery=true", "nice=5")
    after = command("limits", "--json")

    assert "I compute on mains only" in before.out
    assert "I compute on mains and on battery" in changed.out
    assert str(home / "limits.toml") in changed.out
    assert after.lines == [Limits(core_share=0.25, on_battery=True, nice=5).model_dump(mode="json")]
    assert limits_at(home / "limits.toml") == Limits(core_share=0.25, on_battery=True, nice=5)


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        ("core_share=2", "core_share is 2", "fix: core_share: Share of the cores"),
        ("core_share=half", "'core_share' has the value 'half'", "fix: write NAME=VALUE"),
        ("on_battery", "'on_battery' has no value", "fix: write NAME=VALUE"),
        ("on_battery=1", "on_battery is 1", "fix: on_battery: Whether to compute on battery"),
        ("nicer=3", "no setting is called nicer", "fix: did you mean 'nice'?"),
        ("busy_share=NaN", "busy_share", "fix: "),
    ],
)
def test_a_limit_that_is_none_changes_nothing(command, home, change: str, said: str, fix: str):
    command("limits", "nice=7")

    done = command("limits", "core_share=0.25", change)

    assert done.status == 1
    assert said in done.err
    assert done.fixes[0].startswith(fix)
    assert limits_at(home / "limits.toml") == Limits(nice=7)


@pytest.mark.parametrize("reason", UNKNOWN, ids=lambda reason: reason.name)
def test_the_gate_gives_advice_that_the_command_takes(command, reason):
    """It says what to run anyway with; a person types just that."""
    words = UNKNOWN[reason].partition("potluck ")[2].split()

    assert command(*words).status == 0


@pytest.mark.parametrize("words", [("try", "hello"), ("export", "--to", "out")])
def test_a_missing_package_is_answered_with_what_installs_it(home, tmp_path, words):
    done = potluck(*words, home=home, cwd=tmp_path, program=(sys.executable, "-c", WITHOUT_TORCH))

    assert done.status == 1
    assert done.err.splitlines() == [
        "error: this command needs torch, which is not installed",
        "  fix: pip install 'potluck[client]'",
    ]


def test_what_an_operator_needs_runs_without_torch(home, tmp_path):
    """A coordinator is a small machine: only filling in a recipe's base model needs the client's packages."""
    without = (sys.executable, "-c", WITHOUT_TORCH)
    (tmp_path / "recipe.toml").write_text('[run]\nname = "a"\n[model]\nbase = "b"\n', "utf-8")

    verified = potluck("verify", ".", home=home, cwd=tmp_path, program=without)
    hosted = potluck("host", "recipe.toml", "--listen", "127.0.0.1:0", home=home, cwd=tmp_path, program=without)

    assert "has no readable release.json" in verified.err
    assert hosted.status == 1
    assert hosted.fixes == ["fix: pip install 'potluck[client]'"]
    assert not (tmp_path / "potluck-a").exists()


def test_a_probe_without_torch_is_refused_before_anything_is_written(home, tmp_path):
    """A check that was asked for and cannot be made must not be left out in silence."""
    (tmp_path / "recipe.toml").write_text(WHOLE, "utf-8")
    (tmp_path / "held_out.txt").write_text("Nobody trains on this.", "utf-8")
    words = ("host", "recipe.toml", "--listen", "127.0.0.1:0", "--probe", "held_out.txt")

    done = potluck(*words, home=home, cwd=tmp_path, program=(sys.executable, "-c", WITHOUT_TORCH))

    assert done.err.splitlines() == [
        "error: this command needs torch, which is not installed",
        "  fix: pip install 'potluck[evaluation]'",
    ]
    assert not (tmp_path / "potluck-a").exists()


@pytest.mark.parametrize("text", [None, ""])
def test_a_probe_that_cannot_be_read_is_refused_before_anything_is_written(home, tmp_path, text):
    (tmp_path / "recipe.toml").write_text(WHOLE, "utf-8")
    if text is not None:
        (tmp_path / "held_out.txt").write_text(text, "utf-8")

    done = potluck("host", "recipe.toml", "--listen", "127.0.0.1:0", "--probe", "held_out.txt", home=home, cwd=tmp_path)

    assert done.status == 1
    assert "held_out.txt" in done.err
    assert done.fixes
    assert not (tmp_path / "potluck-a").exists()


def test_what_is_said_to_programs_is_json_also_where_it_fails(command):
    """Facts on stdout, trouble on stderr: a program that reads stdout never meets a sentence."""
    done = command("try", "hello", "--json")

    assert done.status == 1
    assert done.out == ""
    assert [json.loads(line) for line in command("history", "--json").out.splitlines()] == []


def test_the_home_is_the_users_alone(command, home: Path):
    command("status")

    assert home.stat().st_mode & 0o077 == 0
    assert (home / "client.sqlite").stat().st_mode & 0o077 == 0
