"""The documentation cannot rot: its diagrams are the tables, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from mutants import OF_CLIENTS, OF_THE_COORDINATOR, corpus
from potluck.cli.app import app
from potluck.client import tasks
from potluck.client.secure import phases as of_clients
from potluck.coordinator import phases
from potluck.coordinator.secure import phases as of_sums

REPO = Path(__file__).parents[1]
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])


@pytest.mark.parametrize(
    ("page", "name", "diagram"),
    [
        ("architecture", "phases", phases.diagram),
        ("architecture", "tasks", tasks.diagram),
        ("secure-aggregation", "client sums", of_clients.diagram),
        ("secure-aggregation", "coordinator sums", of_sums.diagram),
    ],
)
def test_a_diagram_is_the_table_it_shows(page: str, name: str, diagram):
    text = (REPO / "docs" / f"{page}.md").read_text("utf-8")
    shown = text.split(f"<!-- {name}:")[1].split("```mermaid\n")[1].split("\n```")[0]

    assert shown.strip() == diagram().strip()


@pytest.mark.parametrize("clients", [6, 100])
def test_every_message_of_a_secure_sum_costs_what_the_page_says(clients: int):
    text = (REPO / "docs" / "secure-aggregation.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:(\d+)·n ?)?([+−]? ?\d+)? \| ([\d,]+) \|$", text, re.MULTILINE)
    said = {
        name: int(each or 0) * clients + int((rest or "0").replace(" ", "").replace("−", "-"))
        for name, each, rest, _ in rows
    }

    assert set(said) == {*OF_CLIENTS.values(), *OF_THE_COORDINATOR.values()} - {"Opening"}
    if clients == 100:
        assert said == {name: int(total.replace(",", "")) for name, _, _, total in rows}
    else:
        assert said == {name: len(corpus()[name][0]) for name in said}


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
