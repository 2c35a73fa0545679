"""The report of a run: a page that needs nothing but itself."""

import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from potluck.simulations.reports.canvas import DARK, LIGHT, OF_PAGE, Paint, to_svg
from potluck.simulations.reports.page import table
from potluck.simulations.reports.pictures import PICTURES
from potluck.simulations.reports.report import report, write_report
from potluck.simulations.reports.runs import NotARun, read_run
from potluck.simulations.reports.tables import read_rows, write_rows
from potluck.simulations.reports.words import brief, count, loss, percent, size, span
from potluck.simulations.rows import UpdateRow
from simulated import MadeUp, client_row, run_of, update_row, write_run

BUSY = MadeUp(clients=60, rounds=6, hostile=0.2, dropout=0.2, attack="sign_flip")


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "busy", BUSY)
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(busy: Path) -> str:
    return (busy / "report.html").read_text("utf-8")


class Reader(HTMLParser):
    """Every attribute, id and element of a page, and whether each element was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.elements: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_asks_for_nothing(page: str):
    """No script, no address, no font and no picture from elsewhere: it works from a stick, years later."""
    reader = read(page)
    assert not reader.open
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(reader.elements)
    assert not {"src", "srcset", "action"} & {name for name, _ in reader.attributes}
    assert all(value.startswith("#") for name, value in reader.attributes if name.endswith("href"))
    assert reader.elements.count("style") == 1  # one inside a picture would be the whole page's
    assert all(found == "#" for found in re.findall(r"url\(['\"]?(.)", page))
    assert "http" not in page
    assert "@import" not in page


def test_every_id_is_once_and_every_reference_has_one(page: str):
    """Seven pictures stand on one page, and each was drawn as if it were alone."""
    ids = [value for name, value in read(page).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page)) <= set(ids)


def test_the_page_follows_its_reader_s_light_or_dark(page: str):
    """Every colour is a name, and both sets of names are the ones that pictures are painted with."""
    css, rest = page.split("</style>", 1)

    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'[\w-]*="[^"]*#[^"]*"', "", rest))
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+)", part)) for part in css.split("prefers-color-scheme: dark"))
    for paint, found in ((LIGHT, light), (DARK, dark)):
        assert found == {name.replace("_", "-"): colour for name, colour in dataclasses.asdict(paint).items()}
    assert set(re.findall(r"var\(--([\w-]+)\)", page)) <= set(light)


@pytest.mark.parametrize("paint", [LIGHT, DARK])
def test_text_can_be_read_on_both(paint: Paint):
    """WCAG 2.1 asks for a contrast of 4.5 for text and 3 for marks; the fourth, a yellow, has its count beside it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(colour: str) -> float:
        high, low = sorted((luminance(colour), luminance(paint.surface)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, (paint.ink, paint.second_ink))) >= 4.5
    assert min(map(contrast, (paint.first, paint.second, paint.bad))) >= 3
    assert min(map(contrast, (paint.third, paint.fourth))) >= 2


def test_what_people_wrote_is_text_on_the_page(tmp_path: Path):
    """Names come from folders and reasons from others."""
    folder = write_run(tmp_path / "run", BUSY)
    rows = [
        dataclasses.replace(row, client="<script>alert(1)</script>", reason='"><img src=x>') if row.hostile else row
        for row in read_rows(folder / "updates.parquet", UpdateRow)
    ]
    write_rows(folder / "updates.parquet", rows, UpdateRow)

    page = report(read_run(folder))

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&quot;&gt;&lt;img src=x&gt;" in page
    assert "to try &lt;reports&gt; &amp; pages" in page
    assert not {"script", "img", "reports"} & set(read(page).elements)


def test_the_same_rows_give_the_same_bytes(busy: Path, tmp_path: Path):
    again = write_run(tmp_path / "again", BUSY)

    write_report(again)

    for name in ("report.html", *(f"{name}.png" for name in PICTURES)):
        assert (busy / name).read_bytes() == (again / name).read_bytes()


def test_pictures_are_there_as_files_too(busy: Path):
    for name in PICTURES:
        with Image.open(io.BytesIO((busy / f"{name}.png").read_bytes())) as image:
            colours = len(image.convert("RGB").getcolors(1 << 24))
            assert min(image.size) >= 400
        assert colours > 20, f"{name} is almost blank"


def test_the_page_says_the_numbers(busy: Path, page: str):
    run = read_run(busy)

    for said in (
        loss(run.last_loss),
        loss(run.base_loss),
        percent(run.lost),
        "60 clients, 6 asynchronous rounds over a tiny base",
        size(sum(row.bytes_up for row in run.rounds)),
        "points away",
        "&quot;attack&quot;: &quot;sign_flip&quot;",
        "old laptop",
    ):
        assert said in page


def test_machines_are_told_apart_by_what_came_of_their_leases():
    """By hand: of the phone's four leases one went away, one ran out and one came late; medians are of what came."""
    came = {"bytes_up": 1, "train_s": 60.0, "download_s": 7200.0, "upload_s": 5.0}
    run = run_of(
        updates=[
            update_row("a", 1, 1, **came),
            update_row("a", 1, 1, outcome="late", **came | {"train_s": 180.0}),
            update_row("a", 1, 1, outcome="dropped"),
            update_row("a", 1, 1, outcome="expired"),
        ],
        clients=[client_row("a", device="phone"), client_row("b", device="laptop")],
    )

    page = report(run)

    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert ["laptop", "1", "0", "0", *("\N{EN DASH}" * 4)] in cells
    assert ["phone", "1", "4", "1", "50.0 %", "2.0 h", "2 min", "5 s"] in cells


def test_where_nothing_was_measured_the_page_says_so_and_old_pictures_go(tmp_path: Path):
    folder = write_run(tmp_path / "run", MadeUp(rounds=0, measured=False))
    (folder / "loss.png").write_bytes(b"of an earlier run")

    page = write_report(folder).read_text("utf-8")

    assert all(picture.nothing in page for picture in PICTURES.values())
    assert "None ended." in page
    assert list(folder.glob("*.png")) == []
    assert "nan" not in page


def test_a_folder_that_is_no_run_gets_no_report(tmp_path: Path):
    with pytest.raises(NotARun):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_svg_has_no_colour_of_its_own(busy: Path):
    run = read_run(busy)
    for name in ("loss", "weights"):
        svg = to_svg(PICTURES[name].draw(run, OF_PAGE), name)

        assert "#0fe0" not in svg
        assert svg.count("var(--") > 10
        assert not read(svg).open


WRITTEN = [
    (size, 0, "0 B"),
    (size, 999, "999 B"),
    (size, 18_400_000, "18.4 MB"),
    (size, 184_000_000, "184 MB"),
    (count, 9_999, "9,999"),
    (count, 26_640, "26.6 k"),
    (count, math.nan, "–"),
    (span, 0.004, "14 s"),
    (span, 0.25, "15 min"),
    (span, 30, "30.0 h"),
    (span, 72, "3.0 days"),
    (loss, 2.34567, "2.346"),
    (loss, math.nan, "–"),
    (percent, 0.125, "12.5 %"),
    (percent, math.nan, "–"),
    (brief, "50.0 MB", "50 MB"),
    (brief, "50.5 MB", "50.5 MB"),
]


@pytest.mark.parametrize(("words", "number", "said"), WRITTEN)
def test_numbers_are_written_for_people(words, number, said: str):
    assert words(number) == said


def test_columns_of_numbers_stand_right():
    """The first column names its row, also where names are numbers; a word makes a column one of words."""
    found = table(("name", "bytes", "said"), [("1", "1 kB", "1"), ("b<", "–", "one")])

    assert '<th>name</th><th class="number">bytes</th><th>said</th>' in found
    assert '<td>1</td><td class="number">1 kB</td><td>1</td>' in found
    assert '<td>b&lt;</td><td class="number">–</td><td>one</td>' in found
