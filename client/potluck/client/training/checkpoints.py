"""Training state on disk: what one needs to go on as if nothing had happened, and nothing else.

One safetensors file, written beside the old one, fsynced and renamed: at every moment there is a whole checkpoint or
none.  The order of samples is not in it: it is a function of the step.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from potluck.client.errors import DiskFull
from potluck.client.training.errors import BadCheckpoint

NAME: Final = "checkpoint.safetensors"
LAYOUT: Final = "1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after *step* steps: factors, optimiser moments and sums, all as tensors; *job* names what it is of."""

    step: int
    job: str
    tensors: Mapping[str, torch.Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Put *checkpoint* into *folder*, in the place of the one before; on return it is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    target, draft = folder / NAME, folder / f"{NAME}.draft"
    facts = {"layout": LAYOUT, "step": str(checkpoint.step), "job": checkpoint.job}
    try:
        save_file(dict(checkpoint.tensors), draft, metadata={"potluck": json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        if "space left" not in str(error) and "os error 27" not in str(error) and "too large" not in str(error):
            raise
        raise DiskFull(
            f"no room for a checkpoint in {folder}", fix="make room; training goes on from the last"
        ) from None
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(target)
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is durable by itself
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(folder: Path, job: str) -> Checkpoint | None:
    """Return the checkpoint of *job* in *folder*; None if there is none, or if it is another job's.

    Raises:
        BadCheckpoint: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts = json.loads((file.metadata() or {})["potluck"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            step = int(facts["step"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(
            f"{path} is damaged: {error}", fix="delete it; training starts again from its beginning"
        ) from None
    if (facts.get("layout"), facts.get("job")) != (LAYOUT, job):
        return None
    return Checkpoint(step, job, tensors)
