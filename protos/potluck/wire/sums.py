"""What a recipe says about secure sums, worked out in the same way by both sides, and how an update is one vector."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from potluck.aggregation.lowrank import Floats
from potluck.aggregation.secure.lanes import vector_size
from potluck.aggregation.secure.ring import packed_bytes
from potluck.wire.recipe import Recipe
from potluck.wire.secure.encoding import HASH_BYTES
from potluck.wire.secure.parameters import Terms
from potluck.wire.tensors import Manifest

NO_ADAPTER: Final = bytes(HASH_BYTES)
"""Names the start at version 0, where the base model stands alone."""


def terms_of(recipe: Recipe, run_id: str, version: int) -> Terms:
    """Return what sums of updates that start from *version* must be like: equal on every machine, field by field."""
    privacy, manifest = recipe.privacy, Manifest.of(recipe, version)
    return Terms(
        run_id=run_id,
        version=version,
        base=recipe.digest(),  # which names the base model, and all else that was consented to
        manifest=manifest.digest(),
        size=manifest.values,
        bits=privacy.ring_bits,
        clip=privacy.clip,
        cohort_max=recipe.aggregation.cohort,
        cohort_min=privacy.cohort_minimum,
        corrupt=privacy.corrupt_share,
        reports_loss=privacy.sum_losses,
    )


def vector_bytes(terms: Terms) -> int:
    """Return how many bytes a masked update takes as it travels."""
    return packed_bytes(vector_size(terms.ring, terms.max_weight), terms.bits)


def adapter_name(digest: bytes) -> bytes:
    """Return what names the shared adapter with that SHA-256; it is empty at version 0."""
    return digest or NO_ADAPTER


def flattened(tensors: Mapping[str, NDArray[np.floating]], manifest: Manifest) -> Floats:
    """Return all tensors one after another in the manifest's order, row by row: (values,), float64.

    Raises:
        BadTensor: they are not those of the manifest.
    """
    manifest.check(tensors)
    result: Floats = np.concatenate([np.asarray(tensors[name], np.float64).ravel() for name, _ in manifest.entries])
    return result


def unflattened(vector: Floats, manifest: Manifest) -> dict[str, Floats]:
    """Return the tensors of which flattened made *vector*, (values,)."""
    tensors: dict[str, Floats] = {}
    start = 0
    for name, shape in manifest.entries:
        end = start + math.prod(shape)
        tensors[name] = vector[start:end].reshape(shape)
        start = end
    return tensors
