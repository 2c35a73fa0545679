"""Versions of the shared adapter: only ever added."""

from dataclasses import asdict, dataclass
from typing import final

from sqlalchemy import select
from sqlalchemy.orm import Session

from potluck.coordinator.store.records import Version
from potluck.coordinator.store.tables import VersionRow


@final
@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of the shared adapter."""

    session: Session

    def add(self, version: Version) -> None:
        """Write down a new version."""
        self.session.add(VersionRow(**(asdict(version) | {"seed": str(version.seed)})))
        self.session.flush()

    def find(self, number: int) -> Version | None:
        """Return the version with that number."""
        row = self.session.get(VersionRow, number)
        return None if row is None else _version(row)

    def last(self, count: int | None = None) -> tuple[Version, ...]:
        """Return the last *count* versions, or all, the newest first."""
        found = select(VersionRow).order_by(VersionRow.version.desc()).limit(count)
        return tuple(_version(row) for row in self.session.scalars(found))

    def publishes(self, adapter_digest: bytes) -> bool:
        """Whether any version's adapter has that digest, so that members may download it."""
        found = select(VersionRow.version).where(VersionRow.adapter_digest == adapter_digest).limit(1)
        return self.session.scalar(found) is not None

    def blobs(self) -> frozenset[bytes]:
        """Return the digests of all blobs that versions need."""
        found = self.session.execute(select(VersionRow.checkpoint_digest, VersionRow.adapter_digest))
        return frozenset(digest for pair in found for digest in pair if digest)


def _version(row: VersionRow) -> Version:
    return Version(
        version=row.version,
        parent=row.parent,
        round=row.round,
        rolled_back_to=row.rolled_back_to,
        checkpoint_digest=row.checkpoint_digest,
        adapter_digest=row.adapter_digest,
        adapter_size=row.adapter_size,
        seed=int(row.seed),
        contributors=row.contributors,
        examples=row.examples,
        loss_before=row.loss_before,
        loss_after=row.loss_after,
        truncation=row.truncation,
        log_index=row.log_index,
        made_s=row.made_s,
    )
