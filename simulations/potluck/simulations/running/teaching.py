"""Leases become updates: those of one version are trained together, in groups, when the clock first needs one."""

from potluck.client.lessons import Lesson, Term
from potluck.client.work import order_of
from potluck.simulations.running.standing import Lease
from potluck.simulations.running.table import Table


def term_of(table: Table, version: int) -> Term:
    """Return what all have in common who start from *version*."""
    published = table.standing.versions[version]
    adapter = table.packing.blobs.get(published.adapter) if published.adapter else b""
    return Term(table.plan.recipe, version, table.plan.seed_of(version), adapter)


def teach(table: Table, lease: Lease) -> None:
    """See that *lease* is trained and sealed, and with it all that wait to be trained from the same version.

    Raises:
        PotluckError: the base model, the adapter or a client's data does not fit.
    """
    if lease.sealed is not None:
        return
    at = table.standing
    due = [at.leases[number] for number in at.pending if number in at.leases]
    due = [one for one in due if one.version == lease.version]
    at.pending = [number for number in at.pending if number in at.leases and at.leases[number] not in due]
    size = table.asked.at_once
    groups = [due[first : first + size] for first in range(0, len(due), size)]
    lessons = [[_lesson(table, one) for one in group] for group in groups]
    for group, results in zip(groups, table.fleet.train(term_of(table, lease.version), lessons), strict=True):
        for one, trained in zip(group, results, strict=True):
            client, person = at.clients[one.person], table.person(one)
            began = table.packing.start(one.version, at.versions[one.version], person.rank)
            one.sealed = table.packing.seal(trained, began, client.left)
            client.examples = trained.examples
            if client.train_s is None:
                client.train_s = person.device.train_s(trained.tokens)


def _lesson(table: Table, lease: Lease) -> Lesson:
    person = table.person(lease)
    return Lesson(
        data=person.data,
        order=order_of(person.name, table.plan.seed_of(lease.version)),
        rank=person.rank,
        measured=table.asked.own_losses,
    )
