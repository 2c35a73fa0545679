import os
import stat
import subprocess
import sys

import pytest

from potluck.client.errors import HomeInUse
from potluck.client.home import Home, store


def test_a_home_is_where_the_environment_says_and_its_owner_alone_can_read_it(tmp_path):
    home = Home.of_user({"POTLUCK_HOME": str(tmp_path / "a home"), "POTLUCK_CACHE": str(tmp_path / "models")})

    assert home.folder == tmp_path / "a home"
    assert home.cache == tmp_path / "models"
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700


def test_without_an_environment_a_home_is_where_the_system_keeps_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path in Home.of_user({"POTLUCK_CACHE": str(tmp_path / "c")}).folder.parents


def test_a_second_session_in_a_home_is_told_what_to_do(tmp_path):
    home = Home.at(tmp_path)

    with home.occupied():
        assert home.in_use
        with pytest.raises(HomeInUse, match="already runs") as caught, home.occupied(patience_s=0):
            pass

    assert "POTLUCK_HOME=OTHER-FOLDER" in caught.value.__notes__[0]
    assert not home.in_use


def test_a_killed_session_leaves_its_home_free(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from potluck.client.home import Home\n"
        "with Home.at(Path(sys.argv[1])).occupied(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)

    assert done.returncode == -9
    assert not Home.at(tmp_path).in_use


def test_a_file_is_there_whole_and_leaves_nothing_beside_it(tmp_path):
    store(b"first", tmp_path / "file")
    store(b"second", tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_secret_is_closed_to_others_from_its_first_byte(tmp_path, monkeypatch):
    """Not closed afterwards: somebody could have opened it before."""
    monkeypatch.setattr(os, "chmod", lambda *_, **__: pytest.fail("it was open, and is closed only now"))
    (tmp_path / "seed.new").write_bytes(b"what a crash left, open to all")
    before = os.umask(0)
    try:
        store(b"secret", tmp_path / "seed", secret=True)
        store(b"another", tmp_path / "seed", secret=True)
    finally:
        os.umask(before)

    assert (tmp_path / "seed").read_bytes() == b"another"
    assert stat.S_IMODE((tmp_path / "seed").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["seed"]  # noqa: PTH208


def test_a_purge_leaves_the_base_models(tmp_path):
    home = Home.at(tmp_path / "home")
    (home.cache / "model").write_bytes(b"large")
    home.key.write_bytes(b"secret")

    home.purge()

    assert [path.name for path in home.folder.iterdir()] == ["cache"]
    assert (home.cache / "model").exists()
