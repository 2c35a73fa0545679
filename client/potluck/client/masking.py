"""A sealed update as it goes into a secure sum: opened, clipped, rounded to whole numbers of the ring."""

import numpy as np

from potluck.aggregation import decode
from potluck.aggregation.secure.lanes import told, with_lanes
from potluck.aggregation.secure.ring import Words, clipped, quantised
from potluck.client.parked import contribution, unpark
from potluck.client.records import Sealed, Task
from potluck.client.secure.participation import Participation, Standing
from potluck.client.secure.policy import Policy
from potluck.client.station import Station
from potluck.wire.secure.parameters import Terms
from potluck.wire.secure.registers import Certified
from potluck.wire.sums import adapter_name, flattened, terms_of


def participation(station: Station, task: Task, sealed: Sealed, certificate: bytes) -> Participation:
    """Return this client's half of a sum that the update of *task* is to be in.

    Raises:
        BadTensor: the sealed update was damaged on this disk.
    """
    lease, key, coordinator = task.terms, station.identity.key, station.link.invitation.coordinator_key
    terms = terms_of(station.recipe, lease.run_id, lease.version)
    policy = Policy(
        terms,
        adapter_name(lease.adapter_digest),
        coordinator,
        small_groups=station.recipe.privacy.small_cohorts,  # on the card that the owner agreed to
    )
    standing = Standing(key, certificate, Certified(coordinator, lease.run_id), station.used_sums)
    return Participation(standing, policy, _words(station, task, sealed, terms), _name(task))


def _words(station: Station, task: Task, sealed: Sealed, terms: Terms) -> Words:
    """Return the update and what is told of it as whole numbers, rounded at random by the system's own chance."""
    manifest = station.manifest(task.terms.version)
    data = unpark(station.home.blob(sealed.digest).read_bytes(), station.identity.key, _name(task))
    deltas = decode(data, limits=manifest.limits(len(data)))
    vector, was_cut = clipped(flattened(deltas, manifest), terms.clip)
    lanes = told(1, sealed.tokens, clipped=was_cut, loss=sealed.loss_after if terms.reports_loss else None)
    return with_lanes(quantised(vector, terms.ring, np.random.default_rng()), lanes, terms.ring, terms.max_weight)


def _name(task: Task) -> bytes:
    return contribution(task.terms.run_id, task.terms.version)
