"""What can go wrong on a volunteer's machine that the volunteer can put right."""

from potluck.aggregation.errors import PotluckError


class IllegalEvent(PotluckError):
    """An event that the state machine has no row for: a bug of ours, kept from doing harm."""


class HomeInUse(PotluckError):
    """Another process already works in this home."""


class BadKey(PotluckError):
    """The client's key file cannot be read or is not a key."""


class BadOutbox(PotluckError):
    """The outbox is from another version, or does not hold what it should."""


class StillHolds(PotluckError):
    """This home still holds work of another run."""


class NotJoined(PotluckError):
    """This home is a member of no run."""


class NotReady(PotluckError):
    """A preflight found errors, so that nothing was joined."""


class Unreachable(PotluckError):
    """The coordinator did not answer, after as many tries as were allowed."""


class DiskFull(PotluckError):
    """There is no room left; what was downloaded so far is kept."""


class WrongDigest(PotluckError):
    """Bytes that are not what their name, the SHA-256, says."""


class BadLease(PotluckError):
    """A lease for something else than its member consented to."""


class BadReceipt(PotluckError):
    """A receipt that is not for the update that was sent."""


class Interrupted(PotluckError):
    """The owner asked the program to stop; everything durable is on the disk."""


class Leaving(PotluckError):
    """The owner asked to leave the run."""


class NoAccountant(PotluckError):
    """What counts differential privacy is not installed."""


class NotPaid(PotluckError):
    """Private training without a ledger to write it down in."""


class OverBudget(PotluckError):
    """A round would tell more about the owner's text than the owner or the recipe allows."""


class BadLedger(PotluckError):
    """The ledger of what was told was changed, is damaged, or is older than what others have seen of it."""


def fix_of(error: PotluckError) -> str:
    """Return what to do about *error*, in one line; empty where nothing is known."""
    return "; ".join(note.removeprefix("fix: ") for note in getattr(error, "__notes__", []))
