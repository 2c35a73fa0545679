"""The documentation cannot rot: its diagrams are the tables, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from potluck.cli.app import app
from potluck.client import tasks
from potluck.coordinator import phases

REPO = Path(__file__).parents[1]
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])


@pytest.mark.parametrize(("name", "diagram"), [("phases", phases.diagram), ("tasks", tasks.diagram)])
def test_a_diagram_in_the_architecture_is_the_table_it_shows(name: str, diagram):
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    shown = page.split(f"<!-- {name}:")[1].split("```mermaid\n")[1].split("\n```")[0]

    assert shown.strip() == diagram().strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))

    assert not [target for target in targets if not (page.parent / target).exists()]


def test_every_command_that_the_readme_names_exists():
    known = set(get_command(app).commands)
    named = set(re.findall(r"^potluck (\w+)", (REPO / "README.md").read_text("utf-8"), re.MULTILINE))

    assert named
    assert named <= known


def test_every_path_that_the_architecture_names_exists():
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    named = re.findall(r"`((?:aggregation|protos|coordinator|client|cli)/[\w/….*]+)`", page)

    assert named
    for path in named:
        assert list(REPO.glob(path.replace("…", "**"))), path
