"""Scenarios that come with the program, by name."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from potluck.aggregation.errors import BadSetting, UnknownName
from potluck.simulations.worlds.corpora import SOURCES
from potluck.simulations.worlds.tables import Scenario


def shipped() -> dict[str, Path]:
    """Return the files of the scenarios that come with the program, by name, in the order of the names."""
    folder = Path(str(files("potluck.simulations") / "scenarios"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def scenario(name: str) -> Scenario:
    """Return the scenario called *name*, or read the file at the path *name*; its own paths are from its folder.

    Raises:
        UnknownName: there is neither; or a key that no setting has.
        BadSetting: the file cannot be read, or holds a wrong value.
    """
    known = shipped()
    path = known.get(name, Path(name))
    if name not in known and not path.exists():
        close = get_close_matches(name, known, n=1, cutoff=0)
        raise UnknownName(
            f"no scenario is called {name!r}, and no file is there",
            fix=f"did you mean {close[0]!r}?  There are {', '.join(known)}",
        )
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.toml"))
        raise BadSetting(
            f"{name} is a folder, and a scenario is a .toml file",
            fix=f"name the file: {path / inside[0]}" if inside else "write one, or take one that comes with Potluck",
        )
    return _placed(Scenario.read(path), path.resolve().parent)


def _placed(read: Scenario, folder: Path) -> Scenario:
    """Return *read* with paths that mean the same everywhere."""
    if read.text.source not in SOURCES:
        text = read.text.model_copy(update={"source": str(folder / Path(read.text.source).expanduser())})
        read = read.model_copy(update={"text": text})
    trace = read.availability.trace
    if trace is not None:
        placed = trace.model_copy(update={"path": str(folder / Path(trace.path).expanduser())})
        read = read.model_copy(update={"availability": read.availability.model_copy(update={"trace": placed})})
    return read
