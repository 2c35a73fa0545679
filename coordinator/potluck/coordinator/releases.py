"""Releases: every version as a PEFT folder that anybody can load, with a model card, provenance and a signature."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from potluck.aggregation import LowRank, encode
from potluck.coordinator.blobs import room, sync_file, sync_folder
from potluck.coordinator.checkpoints import published
from potluck.coordinator.model_card import model_card
from potluck.coordinator.site import Site
from potluck.coordinator.store.records import Version
from potluck.coordinator.summed import nominal
from potluck.wire.recipe import Recipe
from potluck.wire.releases import sign_release

LOG = logging.getLogger(__name__)
PREFIX: Final = "base_model.model."
"""What PEFT puts before the name of every module."""


def release_folder(site: Site, version: int) -> Path:
    """Return the folder of a version's release, which may not be there yet."""
    return site.folders.releases / f"v{version:04d}"


def publish_missing(site: Site) -> list[int]:
    """Write the release of every version that has none; return which were written.

    Raises:
        Refusal: the disk is full; what is there is whole, and the rest is written another time.
    """
    with site.store.reading() as books:
        versions = [version for version in reversed(books.versions.last()) if version.adapter_digest]
    missing = [version for version in versions if not release_folder(site, version.version).exists()]
    for version in missing:
        publish(site, version)
    return [version.version for version in missing]


def publish(site: Site, version: Version) -> Path:
    """Write the release of *version*: into a folder beside it, fsynced, then renamed; the same bytes every time."""
    folder = release_folder(site, version.version)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with room():
            _fill(site, version, temporary)
            for path in temporary.iterdir():
                sync_file(path)
            sync_folder(temporary)
            temporary.replace(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    LOG.info("event=released version=%d folder=%s", version.version, folder.name)
    return folder


def _fill(site: Site, version: Version, folder: Path) -> None:
    """Write all files of a release into an empty *folder*."""
    recipe = site.plan.recipe
    adapter = published(site.folders.blobs.read(version.adapter_digest))
    version = public(recipe, version)
    facts = _facts(site, version, rank_of(adapter))
    for name, data in peft_files(recipe, adapter).items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text(model_card(recipe, version, facts), "utf-8")
    sign_release(folder, site.keys.signing, facts)


def public(recipe: Recipe, version: Version) -> Version:
    """Return *version* as everybody may know it.

    Where a noised sum hides who was in it, how many there were, what they claim and what they measured would tell it
    all the same: in place of the numbers stands what the recipe asks for, and no losses.
    """
    if not recipe.privacy.differential.by_user:
        return version
    cohort = recipe.aggregation.cohort
    return replace(version, contributors=cohort, examples=cohort * nominal(recipe), loss_before=0.0, loss_after=0.0)


def peft_files(recipe: Recipe, adapter: Mapping[str, LowRank]) -> dict[str, bytes]:
    """Return the files that make *adapter* a PEFT folder, by their names."""
    rank = rank_of(adapter)
    tensors = {
        f"{PREFIX}{name}.{factor}.weight": value
        for name, term in adapter.items()
        for factor, value in _padded(term, rank).items()
    }
    config = json.dumps(adapter_config(recipe, sorted(adapter), rank), indent=2, sort_keys=True)
    return {"adapter_model.safetensors": encode(tensors, "fp32"), "adapter_config.json": f"{config}\n".encode()}


def rank_of(adapter: Mapping[str, LowRank]) -> int:
    """Return the one rank that PEFT is told of."""
    return max(1, *(term.rank for term in adapter.values()))


def adapter_config(recipe: Recipe, modules: list[str], rank: int) -> dict[str, Any]:
    """Return PEFT's adapter_config.json; alpha is the rank, so that B·A counts once."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": recipe.model.base,
        "revision": recipe.model.revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": modules,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def _padded(term: LowRank, rank: int) -> dict[str, Any]:
    """Return lora_A (rank, k) and lora_B (d, rank), filled up with zeros: PEFT wants one rank for all modules."""
    d, k = term.shape
    a, b = np.zeros((rank, k), np.float32), np.zeros((d, rank), np.float32)
    a[: term.rank], b[:, : term.rank] = term.a, term.b
    return {"lora_A": a, "lora_B": b}


def _facts(site: Site, version: Version, rank: int) -> Mapping[str, Any]:
    """Return what release.json says beside the digests of the files."""
    recipe = site.plan.recipe
    with site.store.reading() as books:
        entry = books.log.at(version.log_index)
    told = json.loads(entry.entry)
    inputs = told.get("inputs", ())  # a rollback combined nothing
    return {
        "run_id": site.run_id,
        "run_name": recipe.run.name,
        "version": version.version,
        "parent": version.parent,
        "rolled_back_to": version.rolled_back_to,
        "coordinator_id": site.keys.coordinator_id,
        "base_model": recipe.model.base,
        "base_revision": recipe.model.revision,
        "base_digest": recipe.model.digest,
        "licence": recipe.run.licence,
        "recipe_digest": site.plan.digest.hex(),
        "adapter_digest": version.adapter_digest.hex(),
        "rank": rank,
        "contributors": version.contributors,
        "examples": version.examples,
        "loss_before": version.loss_before,
        "loss_after": version.loss_after,
        "truncation_error": version.truncation,
        "updates": told.get("summed") or told.get("noised") or len(inputs),
        "summed": bool(told.get("summed")),
        "noised": bool(told.get("noised")),
        "weighted_down": sum(bool(one.get("weighted_down")) for one in inputs),
        "probe": told.get("probe"),
        "log_index": entry.index,
        "log_hash": entry.hash.hex(),
    }
