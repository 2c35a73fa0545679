"""Where a job's training starts from, worked out from the shared adapter on this disk; needs no torch."""

from hashlib import sha256
from pathlib import Path

from potluck.aggregation import Limits, LowRank, Start, decode, from_tensors, start
from potluck.aggregation.errors import BadTensor
from potluck.client.work import Job
from potluck.wire.recipe import Recipe


def begun(job: Job) -> Start:
    """Return what this job's training starts from: trainable factors and the frozen rest.

    Raises:
        BadTensor: the adapter is damaged or does not fit the recipe.
    """
    recipe, modules = job.recipe, job.recipe.modules()
    published = adapter_at(job.adapter, recipe) if job.adapter is not None else {}
    settings = recipe.adapter
    return start(published, modules, init=recipe.init, rank=settings.rank, scale=settings.scale, seed=job.seed)


def adapter_at(path: Path, recipe: Recipe) -> dict[str, LowRank]:
    """Return the shared adapter in the blob at *path*, which is named by its SHA-256: float32, scale 1.

    Raises:
        BadTensor: the blob is damaged, or larger than the recipe's adapter can be.
    """
    found = path.read_bytes()
    if sha256(found).hexdigest() != path.name:  # one changed bit would give a start that the coordinator does not know
        raise BadTensor(f"the shared adapter at {path} is damaged", fix="delete that file; it is downloaded again")
    return adapter_in(found, recipe)


def adapter_in(found: bytes, recipe: Recipe) -> dict[str, LowRank]:
    """Return the shared adapter that *found* is as it was published: float32, scale 1.

    Raises:
        BadTensor: it is damaged, or larger than the recipe's adapter can be.
    """
    modules = recipe.modules()
    values = sum((d + k) * recipe.master_rank for d, k in modules.values())
    return from_tensors(decode(found, limits=Limits(len(found), max_tensors=2 * len(modules), max_values=values)))
