"""A version once more, as the next one: the operator went back to it, or the updates for it were spent in vain."""

from dataclasses import replace

from potluck.coordinator.site import Site
from potluck.coordinator.store.database import Books
from potluck.coordinator.store.records import Version


def again(site: Site, books: Books, target: Version, told: str, **facts: object) -> Version:
    """Make *target* the present version again, as a new one after the last; *told* and *facts* go into the log."""
    parent = books.run().version
    number = parent + 1
    entry = books.log.append(
        told,
        version=number,
        to=target.version,
        parent=parent,
        adapter_digest=target.adapter_digest,
        checkpoint_digest=target.checkpoint_digest,
        **facts,
    )
    made = replace(
        target,
        version=number,
        parent=parent,
        round=None,
        rolled_back_to=target.version,
        seed=site.plan.seed_of(number),
        log_index=entry.index,
        made_s=site.clock.now_s(),
    )
    books.versions.add(made)
    books.change_run(version=number)
    return made


def renew(site: Site, books: Books, reason: str) -> None:
    """Let everybody contribute once more, where updates are summed and those of the present version came to nothing.

    A client whose update was revealed in a sum never gives another one that starts from the same version: a second
    sum of nearly the same updates, without one of them, would show that one.  So the version gets a new number.
    """
    run = books.run()
    target = books.versions.find(run.version)
    if site.plan.terms.summed and target is not None:
        again(site, books, target, "version_renewed", reason=reason)
