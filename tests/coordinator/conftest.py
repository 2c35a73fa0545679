"""A coordinator on loopback for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinators import Hosted, hosting
from scripted import recipe


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    """An asynchronous run, three updates a round."""
    with hosting(tmp_path / "run", recipe()) as made:
        yield made


@pytest.fixture
def cohort_run(tmp_path: Path) -> Iterator[Hosted]:
    """A synchronous run: three updates a round, four seats, two at the least, a minute."""
    terms = {"mode": "synchronous", "cohort": 3, "over_selection": 1.3, "minimum": 2, "deadline_s": 60.0}
    with hosting(tmp_path / "run", recipe(aggregation=terms)) as made:
        yield made
