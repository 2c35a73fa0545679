"""Pages that need nothing but themselves: one file, no script, no font and no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Final, final

LONG: Final = 40
"""Characters of a cell from which on it may take several lines."""
_NUMERIC: Final = frozenset("0123456789.,+-\N{EN DASH}% ")


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """A number that the page begins with."""

    name: str
    value: str
    note: str = ""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; *parts* are HTML already, *title* is text."""
    css = files("potluck.simulations.reports").joinpath("page.css").read_text("utf-8")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def tiles(numbers: Iterable[Tile]) -> str:
    """Return the numbers that matter, side by side."""
    each = (
        f"<div><dt>{escape(n.name)}</dt><dd>{escape(n.value)}<small>{escape(n.note)}</small></dd></div>"
        for n in numbers
    )
    return f'<dl class="tiles">{"".join(each)}</dl>'


def picture(svg: str, caption: str) -> str:
    """Return a picture, an SVG element, over its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return *rows* under *columns*; a later column whose every cell is a number stands right."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [n > 0 and all(_is_number(row[n]) for row in cells) for n in range(len(columns))]
    head = "".join(f"<th{_of(r)}>{escape(name)}</th>" for name, r in zip(columns, right, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{_of(r, cell)}>{escape(cell)}</td>" for cell, r in zip(row, right, strict=True)) + "</tr>"
        for row in cells
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(summary: str, text: str) -> str:
    """Return *text* as it is, which is shown when *summary* is clicked."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def _is_number(cell: str) -> bool:
    """Whether *cell* begins as a number does, or says that there is none."""
    return bool(cell) and cell[0] in _NUMERIC


def _of(right: bool, cell: str = "") -> str:  # noqa: FBT001 - private, and called with a name that says it
    return ' class="number"' if right else ' class="long"' if len(cell) > LONG else ""
