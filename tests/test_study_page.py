"""The page of the study says what its cells say: tables and numbers in the prose are the program's."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_the_page_of_the_study_is_what_its_cells_say(tmp_path: Path):
    """And one number changed by hand is found."""
    docs = REPO / "docs"
    for name in ("study.json", "study_short.json", "study_tries.json"):
        (tmp_path / name).write_bytes((docs / name).read_bytes())
    page = (docs / "study.md").read_text("utf-8")
    (tmp_path / "study.md").write_text(page.replace(" %<!--/-->", "0 %<!--/-->", 1), "utf-8")

    changed = checked(tmp_path / "study.json")

    assert checked(docs / "study.json").returncode == 0
    assert (changed.returncode, changed.stdout) == (1, "study.md is out of date: run benchmarks/study.py --tables\n")


def checked(results: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(REPO / "benchmarks" / "study.py"), "--check", "--results", str(results)]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
