"""docs/flower.md: its code blocks run, and its tables name what there is."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import strategy as installed

from adapters import SHAPES, low_rank
from flower_nodes import Regression, record
from potluck.aggregation import LowRank, Update
from potluck.simulations.flower.grid import LocalGrid, as_server, nodes_of
from potluck.simulations.flower.rule import UNFIT

PAGE = (Path(__file__).parents[2] / "docs" / "flower.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_of_the_page_run_one_after_the_other(capsys: pytest.CaptureFixture[str]):
    problem = Regression()
    rng = np.random.default_rng(0)
    start = {name: low_rank(rng, shape, 3) for name, shape in SHAPES.items()}
    after = [{n: LowRank(t.b + np.float32(step), t.a) for n, t in start.items()} for step in (1, 2, 3, 4, 5)]
    names: dict[str, Any] = {
        "first_adapter": dict(record(problem.start)),
        "client_app": problem.app(),
        "updates": [Update(each, start, examples=1) for each in after],
        "master": start,
    }

    for block in BLOCKS:
        exec(block, names)  # noqa: S102 - the page's own code
    with as_server():
        names["app"](LocalGrid(nodes_of(problem.app(), 5)), Context(1, 1, {}, RecordDict(), {}))

    assert float(capsys.readouterr().out) < 1
    assert names["master"]["mlp"].dense() == pytest.approx(after[2]["mlp"].dense(), abs=1e-5)
    assert names["result"].evaluate_metrics_clientapp[2]["eval-loss"] < problem.loss(record(problem.start), 2.0)


def test_the_page_names_every_installed_strategy():
    missing = [
        name for name in installed.__all__ if name not in ("Result", "Strategy", *UNFIT) and f"`{name}`" not in PAGE
    ]
    assert missing == []


def test_the_page_names_every_metric_of_a_round():
    problem = Regression()
    names: dict[str, Any] = {"first_adapter": dict(record(problem.start)), "client_app": problem.app()}
    exec(BLOCKS[0] + BLOCKS[2], names)  # noqa: S102 - the page's own code

    metrics = names["result"].train_metrics_clientapp[1]

    assert [name for name in metrics if name.startswith("potluck") and f"`{name}`" not in PAGE] == []
