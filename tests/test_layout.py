"""The layout holds together: every tool knows every root, and nothing hides one."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
CONFIG = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["tool"]
ROOTS = CONFIG["hatch"]["build"]["dev-mode-dirs"]


@pytest.mark.parametrize("root", ROOTS)
def test_no_root_claims_the_namespace(root: str):
    """One potluck/__init__.py hides every other root in an editable install."""
    assert not (REPO / root / "potluck" / "__init__.py").exists()
    assert all((package / "py.typed").exists() for package in (REPO / root / "potluck").glob("[!_.]*"))


def test_every_tool_knows_every_root():
    wheel = CONFIG["hatch"]["build"]["targets"]["wheel"]
    packages = {f"potluck.{p.name}" for root in ROOTS for p in (REPO / root / "potluck").glob("[!_.]*")}

    assert {p.parents[1].name for p in REPO.glob("*/potluck/*/py.typed")} == {"potluck"}
    assert sorted(p.parent.name for p in REPO.glob("*/potluck")) == ROOTS
    assert wheel["sources"] == ROOTS
    assert wheel["only-include"] == [f"{root}/potluck" for root in ROOTS]
    assert CONFIG["mypy"]["files"] == ROOTS
    assert CONFIG["mypy"]["mypy_path"] == ":".join(f"$MYPY_CONFIG_FILE_DIR/{root}" for root in ROOTS)
    assert set(ROOTS) <= set(CONFIG["ruff"]["src"])
    assert set(CONFIG["importlinter"]["root_packages"]) == packages


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a new interpreter holds after *statement*."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(out.stdout.split())


def test_the_command_line_is_light():
    """`potluck --help` must answer at once: nothing heavy is imported before a command needs it."""
    heavy = {"torch", "grpc", "sqlalchemy", "transformers", "pydantic", "rich"}

    assert not heavy & loaded_by("import potluck.cli.app")


def test_a_coordinator_starts_without_torch():
    heavy = {"torch", "transformers", "peft", "safetensors", "psutil", "pyarrow"}

    assert not heavy & loaded_by("import potluck.coordinator.server")


def test_the_core_needs_only_numpy():
    outside = {"torch", "grpc", "google", "pydantic", "sqlalchemy", "cryptography"}

    assert not outside & loaded_by("import potluck.aggregation")
