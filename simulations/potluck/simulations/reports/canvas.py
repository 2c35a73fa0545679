"""Where pictures are drawn: one style, as PNG for other documents, and as SVG that takes its page's colours."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, final

import matplotlib as mpl
from matplotlib.figure import Figure

SIZE: Final = (7.4, 3.3)
"""Inches of a picture."""
DPI: Final = 150
_SALT: Final = "potluck"  # ids in an SVG are hashed with it: the same picture, the same bytes


@final
@dataclass(frozen=True, slots=True)
class Paint:
    """The colours of a picture.  First, second and third tell series apart; bad is for what went wrong."""

    surface: str
    ink: str
    second_ink: str
    grid: str
    first: str
    second: str
    third: str
    fourth: str
    bad: str


LIGHT: Final = Paint("#fcfcfb", "#0b0b0b", "#52514e", "#e1e0d9", "#2a78d6", "#eb6834", "#1baf7a", "#eda100", "#e34948")
DARK: Final = Paint("#1a1a19", "#ffffff", "#c3c2b7", "#2c2c2a", "#3987e5", "#d95926", "#199e70", "#c98500", "#e66767")
OF_PAGE: Final = Paint(*(f"#0fe0{n:02x}" for n in range(len(fields(Paint)))))
"""Colours that no picture has: in the SVG each becomes the page's own, which follow the reader's light or dark."""

_STYLE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.axisbelow": True,
        "axes.grid.axis": "y",
        "axes.labelsize": 9,
        "font.size": 9,
        "grid.linewidth": 0.8,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",
        "svg.hashsalt": _SALT,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
)


def figure(paint: Paint, *, rows: int = 1, columns: int = 1, size: tuple[float, float] = SIZE) -> tuple[Any, list[Any]]:
    """Return an empty Figure, and its Axes row by row, in *paint*'s colours."""
    with mpl.rc_context(dict(_STYLE)):
        drawn = Figure(figsize=size, layout="constrained", facecolor=paint.surface)
        axes = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        each.set_facecolor(paint.surface)
        each.grid(visible=True, axis="y", color=paint.grid)
        each.spines["bottom"].set_color(paint.grid)
        each.tick_params(colors=paint.second_ink)
        for label in (each.xaxis.label, each.yaxis.label):
            label.set_color(paint.second_ink)
    return drawn, axes


def legend(axes: Any, paint: Paint) -> None:  # noqa: ANN401 - an Axes
    """Add the legend above *axes*, where it covers nothing, in the colour of text."""
    entries = len(axes.get_legend_handles_labels()[1])
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(labelcolor=paint.second_ink, frameon=False, fontsize=8.5, ncols=entries, columnspacing=1.2, **where)


def above(drawn: Any, axes: Any, paint: Paint) -> None:  # noqa: ANN401 - a Figure and one of its Axes
    """Add the legend of *axes* above the whole picture, four entries a line."""
    handles, labels = axes.get_legend_handles_labels()
    look = {"labelcolor": paint.second_ink, "frameon": False, "fontsize": 8.5}
    drawn.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), **look)


def title(axes: Any, text: str, paint: Paint) -> None:  # noqa: ANN401 - an Axes
    """Write *text* above *axes*, in the colour of text."""
    axes.set_title(text, loc="left", fontsize=9, color=paint.second_ink)


def label(text: str) -> str:
    """Return *text* as a picture shows it: no formula between dollars, no legend that leaves out a leading _."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return (" " if plain.startswith("_") else "") + plain.replace("$", r"\$")


@contextmanager
def _style() -> Iterator[None]:
    """Draw in our style; a script that the PNG's font lacks shows as boxes, and the SVG's reader has fonts."""
    with mpl.rc_context(dict(_STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        yield


def to_png(drawn: Any) -> bytes:  # noqa: ANN401 - a Figure
    """Return the picture as PNG."""
    buffer = io.BytesIO()
    with _style():
        drawn.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(drawn: Any, name: str) -> str:  # noqa: ANN401 - a Figure
    """Return a picture in the paint OF_PAGE as an SVG element; *name* keeps its ids apart from other pictures'."""
    buffer = io.StringIO()
    with _style():
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*|<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    inside = text[text.index(">", text.index("<svg")) + 1 :]  # a <style> in it would be the whole page's
    inside = re.sub(r'\bid="', f'id="{name}-', inside)
    inside = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", inside)
    for field in fields(Paint):
        inside = inside.replace(getattr(OF_PAGE, field.name), f"var(--{field.name.replace('_', '-')})")
    width, height = (72 * inches for inches in drawn.get_size_inches())
    return f'<svg role="img" viewBox="0 0 {width:g} {height:g}" style="max-width: {1.5 * width:g}px">{inside}'
