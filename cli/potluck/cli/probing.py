"""The operator's probe: the client's own measuring, put beside the coordinator that asks for it."""

import os
import sys
from pathlib import Path
from typing import Final

from potluck.cli.extras import needs
from potluck.cli.report import say
from potluck.coordinator.evaluation import EvaluationProcess
from potluck.coordinator.probe import Probe
from potluck.wire.recipe import Recipe

EVALUATES: Final = ("torch", "transformers", "peft", "safetensors", "filelock", "pyarrow")
"""Packages of [evaluation] that the measuring process loads."""


def opened_probe(text: Path, tolerance: float, recipe: Recipe, *, quiet: bool) -> Probe:
    """Start the process that measures new versions on the operator's text, and let it read that.

    Raises:
        CannotMeasure: there is no text, or the base model cannot be loaded here.
    """
    if not quiet:
        say(f"reading the probe {text} and loading the base model")
    with needs("evaluation"):
        from potluck.client.home import cache_of_user
    terms = {"recipe": recipe.to_json(), "text": str(text), "cache": str(cache_of_user(os.environ))}
    judge = EvaluationProcess([sys.executable, "-m", "potluck.client.training.probing"], terms)
    try:
        tokens = judge.open()
    except BaseException:
        judge.close()
        raise
    if not quiet:
        say(f"every new version is measured on {tokens} tokens; one that is {tolerance:.2%} worse is refused")
    return Probe(judge, tolerance)
