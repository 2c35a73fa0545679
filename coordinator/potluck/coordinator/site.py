"""What all parts of one coordinator share: its folder, database, keys, recipe and clock."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from potluck.aggregation.products import Mapped
from potluck.coordinator.blobs import BlobFolder, Partials
from potluck.coordinator.clock import Clock
from potluck.coordinator.keys import Keys
from potluck.coordinator.probe import Probe
from potluck.coordinator.rounds import Terms
from potluck.coordinator.steps import OnStep
from potluck.coordinator.store.database import Store
from potluck.wire.recipe import Recipe
from potluck.wire.seeds import seed_of
from potluck.wire.tensors import Manifest

DATABASE_FILE: Final = "coordinator.db"


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """The recipe, and what every call needs of it, worked out once."""

    recipe: Recipe
    json: str
    digest: bytes
    manifests: tuple[Manifest, Manifest]
    """What an update must hold that starts from an even version, and from an odd one."""
    manifest_digests: tuple[bytes, bytes]
    terms: Terms

    def manifest(self, version: int) -> Manifest:
        """Return what an update that starts from *version* must hold, and nothing else."""
        return self.manifests[version % 2]

    def manifest_digest(self, version: int) -> bytes:
        """Return the digest of manifest(*version*)."""
        return self.manifest_digests[version % 2]

    def seed_of(self, version: int) -> int:
        """Return the seed for starts from *version*, 64 bits: the same in every run of this recipe."""
        return seed_of(self.digest, version)


def plan_of(recipe: Recipe) -> Plan:
    """Work out *recipe*."""
    even, odd = (Manifest.of(recipe, version) for version in (0, 1))
    digests = (even.digest(), odd.digest())
    return Plan(recipe, recipe.to_json(), recipe.digest(), (even, odd), digests, Terms.of(recipe))


@final
@dataclass(frozen=True, slots=True)
class Folders:
    """Where things are below a coordinator's folder."""

    root: Path

    @property
    def blobs(self) -> BlobFolder:
        """Checkpoints and adapters; members may download adapters."""
        return BlobFolder(self.root / "blobs")

    @property
    def spool(self) -> BlobFolder:
        """Whole updates that wait to be submitted or counted; nobody may download them."""
        return BlobFolder(self.root / "spool")

    @property
    def releases(self) -> Path:
        """The adapter folders that anybody may have."""
        return self.root / "releases"

    @property
    def keys(self) -> Path:
        """The coordinator's keys."""
        return self.root / "keys"

    @property
    def database_url(self) -> str:
        """The database that a coordinator uses unless it is told another."""
        return f"sqlite:///{self.root / DATABASE_FILE}"


@final
@dataclass(frozen=True, slots=True)
class Site:
    """One coordinator's place: everything that its parts work on."""

    folders: Folders
    partials: Partials
    store: Store
    keys: Keys
    run_id: str
    plan: Plan
    clock: Clock
    on_step: OnStep
    fence: int | None
    """The number under which this coordinator may commit; none for an operator's command beside it."""
    bell: threading.Event
    """Rung when there is something to combine or to publish."""
    probe: Probe | None = None
    """What a new version has to pass, where the operator has a probe."""
    mapped: Mapped = map
    """How the passes over a round's modules are run: here, one after another, unless the host has a cluster."""
