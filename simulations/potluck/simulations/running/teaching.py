"""Leases become updates: those of one version are trained together, in groups, when the clock first needs one."""

from collections.abc import Iterator, Sequence

from potluck.aggregation.errors import PotluckError
from potluck.client.lessons import Lesson, Term
from potluck.client.work import order_of
from potluck.simulations.running.standing import Kind, Lease, Sealed
from potluck.simulations.running.table import Table


def term_of(table: Table, version: int) -> Term:
    """Return what all have in common who start from *version*."""
    published = table.standing.versions[version]
    adapter = table.packing.blobs.get(published.adapter) if published.adapter else b""
    return Term(table.plan.recipe, version, table.plan.seed_of(version), adapter)


def teach(table: Table, lease: Lease) -> None:
    """See that *lease* is trained and sealed, or failed, and with it all that wait to be trained from that version.

    Where that is the present version, those who come next and will probably get a lease on it are trained as well:
    what they will send follows from the version and from them, and a full batch costs little more than one client.

    Raises:
        PotluckError: the base model, the adapter or a client's data does not fit.
    """
    if lease.sealed is not None or lease.failed:
        return
    at, version = table.standing, lease.version
    due = [at.leases[number] for number in at.pending if number in at.leases]
    due = [one for one in due if one.version == version]
    at.pending = [number for number in at.pending if number in at.leases and at.leases[number] not in due]
    people = [one.person for one in due]
    if version == at.version:
        people += _coming(table, len(due))
    for person, sealed in zip(people, _sealed(table, version, people), strict=True):
        at.ahead[person] = sealed
    for one in due:
        take(table, one)


def take(table: Table, lease: Lease) -> None:
    """Give *lease* what is known of its client's training."""
    found = table.standing.ahead.pop(lease.person)
    if isinstance(found, str):
        lease.failed = found
    else:
        lease.sealed = found


def _coming(table: Table, due: int) -> list[int]:
    """Return who is trained ahead beside so many that are *due*: the next to check in, as far as one can tell.

    Synchronous: as many as there are seats left; asynchronous: as many as fill the last group.
    """
    at, there = table.standing, table.world.availability
    seats = table.terms.seats - at.tally.leases if table.terms.synchronous else -due % table.asked.at_once
    coming: list[int] = []
    for event in sorted(one for one in at.events if one.kind is Kind.CHECK_IN):
        if len(coming) >= seats:
            break
        person, client = event.subject, at.clients[event.subject]
        fresh = person not in at.ahead and client.counted_version != at.version and client.counted_round != at.round
        if fresh and there.next_online_s(person, event.at_s) == event.at_s and not there.drops(person, at.version):
            coming.append(person)
    return coming


def _sealed(table: Table, version: int, people: Sequence[int]) -> Iterator[Sealed | str]:
    """Yield what each of *people* sends that started from *version*, or why nothing; they are trained in groups."""
    at, size = table.standing, table.asked.at_once
    groups = [people[first : first + size] for first in range(0, len(people), size)]
    lessons = [[_lesson(table, version, person) for person in group] for group in groups]
    for group, results in zip(groups, table.fleet.train(term_of(table, version), lessons), strict=True):
        for number, trained in zip(group, results, strict=True):
            client, person = at.clients[number], table.world.people[number]
            if isinstance(trained, PotluckError):
                yield str(trained)
                continue
            began = table.packing.start(version, at.versions[version], person.rank)
            client.examples = trained.examples
            if client.train_s is None:
                client.train_s = person.device.train_s(trained.tokens)
            yield table.packing.seal(trained, began, client.left)


def _lesson(table: Table, version: int, number: int) -> Lesson:
    person = table.world.people[number]
    return Lesson(
        data=person.data,
        order=order_of(person.name, table.plan.seed_of(version)),
        rank=person.rank,
        measured=table.asked.own_losses,
    )
