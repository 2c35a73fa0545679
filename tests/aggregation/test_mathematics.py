"""docs/mathematics.md names functions and tests; this checks that they exist and that none was forgotten."""

import importlib
import re
from pathlib import Path

import pytest

from potluck.aggregation import AGGREGATORS, CODECS, INITS, OUTER, WEIGHTS

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs" / "mathematics.md").read_text("utf-8")
TESTS = "\n".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(potluck\.aggregation\.[\w.]+)`", PAGE))))
def test_every_function_in_the_tables_exists(name: str):
    """A renamed function must take its row along."""
    module, _, attribute = name.rpartition(".")

    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_every_test_in_the_tables_exists(name: str):
    """A row without its test is a claim without its proof."""
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("name", sorted({*AGGREGATORS, *WEIGHTS, *OUTER, *INITS, *CODECS} - {"fp64", "fp32", "fp16"}))
def test_every_registered_name_has_a_row(name: str):
    """Whoever adds a rule adds its equation and paper."""
    assert f"\n| `{name}` |" in PAGE
