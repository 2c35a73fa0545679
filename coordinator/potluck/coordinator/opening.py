"""Opening a coordinator's folder: one coordinator at a time, one recipe, and whatever a crash left behind put right."""

import secrets
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self, final

from potluck.aggregation.errors import PotluckError
from potluck.aggregation.products import Mapped
from potluck.coordinator.blobs import Partials
from potluck.coordinator.clock import Clock
from potluck.coordinator.keys import open_keys
from potluck.coordinator.probe import Probe
from potluck.coordinator.progress import open_round
from potluck.coordinator.renewal import renew
from potluck.coordinator.site import Folders, Site, plan_of
from potluck.coordinator.steps import OnStep
from potluck.coordinator.store.database import Books, Store
from potluck.coordinator.store.records import Version
from potluck.coordinator.summed import lose
from potluck.wire.recipe import Recipe

FROZEN: Final = (
    "model.digest",
    "model.modules",
    "adapter",
    "aggregation.mode",
    "aggregation.outer",
    "aggregation.master_rank",
    "privacy.secure_aggregation",
)
"""What a run cannot change: updates and the master would not fit any more.  All else may change; volunteers are asked
to consent to the new recipe."""
PROMISED: Final = ("privacy.differential", "privacy.clip")
"""What a run whose guarantee is one for all its rounds cannot change, either: what was promised of those before."""


@final
class InUse(PotluckError):
    """Another coordinator works in this folder."""


@final
class OtherRecipe(PotluckError):
    """The folder's run has a recipe that the new one does not go on from."""


@final
@dataclass(frozen=True, slots=True)
class Around:
    """What a coordinator is handed beside its folder and its recipe."""

    clock: Clock
    on_step: OnStep
    database_url: str | None
    """None: SQLite in the folder."""
    probe: Probe | None
    mapped: Mapped = map
    """How the passes over a round's modules are run."""


@final
@dataclass(frozen=True, slots=True)
class FolderLock:
    """Held while a coordinator works in a folder; the system lets go of it when the process ends, however it ends."""

    file: IO[bytes]

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Take the lock.

        Raises:
            InUse: another process, or another coordinator of this one, has it.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "coordinator.lock").open("ab")
        try:
            _lock(file)
        except OSError:
            file.close()
            raise InUse(
                f"a coordinator is at work in {folder} already",
                fix="stop it first, or use another folder; invite, status and rollback work beside it",
            ) from None
        return cls(file)

    def release(self) -> None:
        """Let go of it."""
        self.file.close()


def _lock(file: IO[bytes]) -> None:
    """Lock an open file, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists there only

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - exists there only

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_site(folder: Path, recipe: Recipe, around: Around) -> Site:
    """Open the run in *folder*, or begin it; take the next number, under which alone one may commit from now on.

    Raises:
        OtherRecipe: the folder's run cannot go on with *recipe*, or it does not name its base model yet.
        BadKey: a key file cannot be used.
    """
    if not recipe.complete:
        raise OtherRecipe(
            "the recipe does not pin its base model: model.digest or model.modules is empty",
            fix="let `potluck host` fill them in from the model",
        )
    folders, partials = Folders(folder), Partials(folder / "partial")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (folders.blobs, folders.spool, partials):
        place.prepare()
    clock = around.clock
    keys = open_keys(folders.keys, clock.now_s())
    store = Store.open(around.database_url or folders.database_url)
    plan = plan_of(recipe)
    with store.writing() as books:
        if not books.has_run():
            books.create_run(secrets.token_hex(8), plan.json)
        run = books.run()
        site = Site(
            folders=folders,
            partials=partials,
            store=store,
            keys=keys,
            run_id=run.run_id,
            plan=plan,
            clock=clock,
            on_step=around.on_step,
            fence=run.fence + 1,
            bell=threading.Event(),
            probe=around.probe,
            mapped=around.mapped,
        )
        if books.versions.find(0) is None:
            _begin(site, books)
        elif run.recipe_json != plan.json:
            _change_recipe(books, run.recipe_json, plan.json)
        books.change_run(fence=run.fence + 1)
        lose(site, books, "the coordinator was started again in the middle of it")
        _reseed(site, books)
        open_round(site, books)
        _sweep(site, books)
    return site


def _begin(site: Site, books: Books) -> None:
    """Write version 0 down, where the base model stands alone, and begin the log."""
    entry = books.log.append(
        "run_opened",
        run_id=site.run_id,
        run_name=site.plan.recipe.run.name,
        coordinator_key=site.keys.public,
        recipe_digest=site.plan.digest,
        base_model=site.plan.recipe.model.base,
        base_digest=site.plan.recipe.model.digest,
    )
    books.versions.add(
        Version(
            version=0,
            parent=None,
            round=None,
            rolled_back_to=None,
            checkpoint_digest=b"",
            adapter_digest=b"",
            adapter_size=0,
            seed=site.plan.seed_of(0),
            contributors=0,
            examples=0,
            loss_before=0.0,
            loss_after=0.0,
            truncation=0.0,
            log_index=entry.index,
            made_s=site.clock.now_s(),
        )
    )


def _change_recipe(books: Books, old: str, new: str) -> None:
    """Go on with another recipe, where the updates and the master still fit.

    Raises:
        OtherRecipe: they do not; every difference that is in the way is named.
    """
    recipes = [Recipe.offered(old), Recipe.parse(new)]  # another version may have made the old one
    before, after = (recipe.model_dump(mode="json") for recipe in recipes)
    changed = sorted(_differences(before, after))
    promised = PROMISED if any(recipe.privacy.differential.by_user for recipe in recipes) else ()
    frozen = (*FROZEN, *promised)
    barred = [name for name in changed if any(name == key or name.startswith(f"{key}.") for key in frozen)]
    if len({(recipe.moves(0), recipe.moves(1)) for recipe in recipes}) > 1:  # updates under way hold other tensors
        barred.append("aggregation.rule")
    if barred:
        told = "; ".join(f"{name}: {_at(before, name)!r} became {_at(after, name)!r}"[:300] for name in barred)
        raise OtherRecipe(
            f"this folder's run cannot go on with the recipe: {told}",
            fix="set these back as they were, or host the new recipe in another folder",
        )
    books.change_run(recipe_json=new)
    books.log.append("recipe_changed", changed=changed, recipe_digest=Recipe.parse(new).digest())


def _reseed(site: Site, books: Books) -> None:
    """Give the present version a new number where it has the seed of a recipe before, and updates are summed.

    Clients work the seed out from the recipe that they consented to, and refuse another.
    """
    present = books.versions.find(books.run().version)
    if present is not None and present.seed != site.plan.seed_of(present.version):
        renew(site, books, "the recipe changed, and with it the seeds")


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """Return the dotted names of all settings that differ; model.modules is one setting."""
    found = []
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        here = f"{path}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping) and not path:
            found += _differences(old, new, f"{here}.")
        elif old != new:
            found.append(here)
    return found


def _at(recipe: Mapping[str, Any], name: str) -> object:
    """Return the setting with that dotted name."""
    table, _, key = name.partition(".")
    return recipe[table][key]


def _sweep(site: Site, books: Books) -> None:
    """Delete bytes that nothing refers to: what a crash left, and what was counted."""
    if site.plan.terms.summed:  # masked for a sum that is no more
        for upload in books.leases.uploads():
            books.leases.forget_upload(upload.lease_id)
    uploads = books.leases.uploads()
    site.partials.sweep(upload.upload_id for upload in uploads)
    kept = books.intake.spooled() | {upload.digest for upload in uploads}
    site.folders.spool.delete(site.folders.spool.all() - kept)
    site.folders.blobs.delete(site.folders.blobs.all() - books.versions.blobs())
