"""What is printed: facts on stdout, trouble on stderr, and nothing that drives the terminal."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting
from potluck.cli.report import duration, fail, printable, say, show, size, table, warn

HOSTILE = {
    "a colour": "\x1b[31mred",
    "a title": "\x1b]0;owned\x07",
    "a C1 control": "\x9b2J",
    "a line over this one": "good\rbad",
    "a new line": "good\nERROR all is lost",
    "text the other way round": "safe\u202egnp.exe",
    "nothing": "\x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_name_off_the_network_cannot_drive_the_terminal(text: str, capsys):
    """Run names, client names and error messages come from others."""
    say(text)
    warn(text)
    show({"name": text.replace("\n", "")})
    table(("name",), [(text,)])
    fail(BadSetting(text, fix=text))

    out, err = capsys.readouterr()
    assert all(char.isprintable() for char in (out + err).replace("\n", ""))
    assert "\N{REPLACEMENT CHARACTER}" in out
    assert len(out.splitlines()) == 5


@given(st.text())
def test_what_is_printable_stays_and_nothing_else(text: str):
    shown = printable(text)

    assert len(shown) == len(text)
    assert shown.isprintable()
    assert all(a == b for a, b in zip(text, shown, strict=True) if a.isprintable())
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in shown)


def test_facts_line_up_and_a_long_one_goes_on_below(capsys):
    show({"run": "tiny", "volunteers": 3, "work": "round 1\nround 2"})

    assert capsys.readouterr().out == "run         tiny\nvolunteers  3\nwork        round 1\n            round 2\n"


def test_a_program_gets_one_object_a_line(capsys):
    show({"path": "a\nb", "n": 1}, as_json=True)

    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"path": "a\nb", "n": 1}


def test_an_error_goes_to_stderr_with_its_fix_below(capsys):
    error = BadSetting("rank is 0", fix="set rank to at least 1")
    error.add_note("also: alpha is -1")

    assert fail(error) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: rank is 0\n  fix: set rank to at least 1\n  also: alpha is -1\n"


def test_a_table_lines_up_names_left_and_numbers_right(capsys):
    table(("who", "n"), [("ann", 5), ("bartholomew", 123)])

    assert capsys.readouterr().out == "who            n\n-----------  ---\nann            5\nbartholomew  123\n"


def test_a_table_without_rows_is_its_heading(capsys):
    table(("who", "n"), [])

    assert capsys.readouterr().out == "who  n\n---  -\n"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (18_400_000, "18.4 MB"), (2.5e9, "2.5 GB"), (7e15, "7000.0 TB")],
)
def test_a_number_of_bytes_for_people(count: float, words: str):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (754, "12 min 34 s"), (3_600, "1 h"), (7_265, "2 h 1 min")],
)
def test_a_time_span_for_people(seconds: float, words: str):
    assert duration(seconds) == words


@given(st.floats(0, 1e9))
def test_a_time_span_is_never_far_off(seconds: float):
    """At most a minute once hours are shown."""
    words = duration(seconds).split()
    units = {"h": 3_600, "min": 60, "s": 1}
    said = sum(int(n) * units[unit] for n, unit in zip(words[::2], words[1::2], strict=True))

    assert abs(said - seconds) <= (60 if "h" in words else 0.5 + 1e-6)
