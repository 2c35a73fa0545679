"""Commands run in this process, by the program's own entry, for all that needs no process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Done
from potluck.cli.app import main


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def command(home: Path, tmp_path: Path, monkeypatch, capsys) -> Callable[..., Done]:
    """Return what runs one command, in a home and a folder of its own, with nobody at the terminal."""
    monkeypatch.setenv("POTLUCK_HOME", str(home))
    monkeypatch.setenv("POTLUCK_CACHE", str(home / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["potluck", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Done(status, *capsys.readouterr())

    return run
