"""The page on simulation says of reports what the code does."""

import re
from pathlib import Path

from typer.main import get_command

from potluck.cli.app import app
from potluck.simulations.reports.beside import PAGE as COMPARED
from potluck.simulations.reports.pictures import ENDINGS, PICTURES
from potluck.simulations.reports.report import PAGE
from potluck.simulations.reports.tables import CLIENTS, ROUNDS, UPDATES
from simulated import write_run

SECTION = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text("utf-8").split("\n## Reports\n")[1]
SECTION = SECTION.split("\n## ")[0]


def test_every_file_and_picture_has_its_row():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", SECTION, re.MULTILINE))

    assert list(rows) == [ROUNDS, UPDATES, CLIENTS, *(f"{name}.png" for name in PICTURES)]
    for name, picture in PICTURES.items():
        assert rows[f"{name}.png"].startswith(picture.title)
    assert all(ending in rows["leases.png"] for ending in ENDINGS)
    assert PAGE in SECTION
    assert COMPARED in SECTION


def test_the_example_runs(tmp_path: Path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)

    exec(compile(example, "docs/simulation.md", "exec"), {"folder": write_run(tmp_path / "run")})  # noqa: S102

    base, last, slow = capsys.readouterr().out.split()
    assert float(base) == 3.0
    assert 2.0 < float(last) < 2.3
    assert slow == "0"


def test_every_option_of_compare_is_named():
    (line,) = re.findall(r"^potluck compare .*$", SECTION, re.MULTILINE)

    options = {option for param in get_command(app).commands["compare"].params for option in param.opts}
    assert set(re.findall(r"--[a-z]+", line)) == {option for option in options if option.startswith("--")}
