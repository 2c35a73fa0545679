"""What a client insists on in a lease, whatever the coordinator offers."""

from potluck.aggregation.errors import PotluckError
from potluck.client.errors import BadLease
from potluck.client.sane import integer, largest_adapter
from potluck.client.station import Station
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.seeds import seed_of
from potluck.wire.v1 import work_pb2 as pb

DISTRUST = "ask the operator why; where there is no good answer, do not trust the coordinator: potluck leave"


def check(station: Station, lease: pb.Lease) -> None:
    """Compare *lease* with this membership, and with what this client gave before.

    Raises:
        BadLease: it is for something else than was consented to.
        SumRefusal: LEASE_SEED or LEASE_VERSION: updates made under it could be told apart by several sums.
        BadRecord: the record of sums is damaged.
    """
    for wrong in (_strange(station, lease), _repeated(station, lease)):
        if wrong is not None:
            raise wrong


def _strange(station: Station, lease: pb.Lease) -> PotluckError | None:
    """Return what is wrong with a lease for this membership."""
    told = ""
    if lease.run_id != station.membership.run_id:
        told = "the lease is for another run"
    elif lease.recipe_digest != station.membership.recipe_digest:
        told = "the lease is for another recipe than the one consented to"
    elif lease.manifest_digest != station.manifest(integer(lease.version)).digest():
        told = "the lease asks for other tensors than the recipe"
    elif lease.adapter.size > largest_adapter(station.recipe):
        told = too_large(lease.adapter.size, station)
    return BadLease(told, fix="tell the operator; the client asks again later") if told else None


def _repeated(station: Station, lease: pb.Lease) -> PotluckError | None:
    """Return why a lease may make an update that was summed before be made again, where updates are summed.

    One adapter under several numbers with one seed would be trained to the same update each time, and sums of it with
    others that overlap, added and subtracted, are that update.
    """
    if not station.recipe.privacy.secure_aggregation:
        return None
    version = integer(lease.version)
    if lease.seed != seed_of(station.membership.recipe_digest, version):
        return SumRefusal(
            f"version {version} with the seed {lease.seed}; nothing was trained", reason=Reason.LEASE_SEED, fix=DISTRUST
        )
    last = station.used_sums.last(lease.run_id)
    if last is not None and version <= last:
        return SumRefusal(
            f"version {version} after version {last}; nothing was trained", reason=Reason.LEASE_VERSION, fix=DISTRUST
        )
    return None


def too_large(size: int, station: Station) -> str:
    """Return that a shared adapter cannot be one."""
    return f"a shared adapter of {size} bytes; this run's has at most {largest_adapter(station.recipe)}"
