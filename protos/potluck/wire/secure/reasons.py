"""Why a secure sum, or one message of it, is refused: a name for each case."""

from enum import StrEnum
from typing import final

from potluck.aggregation.errors import PotluckError


@final
class Reason(StrEnum):
    """The name of a refusal, and what happened in a few words."""

    # What a message looks like
    MALFORMED = "the bytes are no such message"
    TOO_LARGE = "the message is larger than any honest one"
    WRONG_LENGTH = "the masked vector has another length than was agreed"
    WRONG_DIGEST = "the masked vector is not the one that was signed"
    # When it comes, and from whom
    OUT_OF_ORDER = "the message belongs to another step"
    REPEATED = "the very same message was taken already"
    CONTRADICTED = "another message of this kind was taken from this client already"
    LATE = "the step is over"
    STRANGER = "the sender is not in this sum"
    FULL = "the sum has as many clients as it may"
    # What it is signed for
    BAD_SIGNATURE = "a signature does not hold"
    # What the coordinator proposed
    TERMS = "the terms are not those that were agreed to"
    DEADLINE = "a deadline is out of bounds"
    SMALL_COHORT = "fewer clients than the minimum would be summed"
    ADAPTER = "the adapter that was trained is not among those of this sum"
    # What the coordinator leased
    LEASE_SEED = "the lease has another seed than its recipe and version give, so that updates could be made alike"
    LEASE_VERSION = "the lease is not for a later version than the last one that an update was given to a sum of"
    # The roster
    NOT_A_MEMBER = "somebody in the roster is no proven member"
    BAD_ROSTER = "the roster is out of order, or names somebody twice"
    WEAK_KEY = "a key that two share, or that agrees on nothing"
    OWN_ENTRY = "my own entry was left out or altered"
    # Shares and lists
    BAD_SHARE = "shares that were sent to me do not open"
    BAD_LIST = "a list of clients that cannot be"
    SECOND_LIST = "a second list of survivors in one sum"
    NO_CONSENSUS = "fewer than the threshold agree about who survived"
    DIFFERENCING = "almost the same clients were summed before"
    # What was here before
    USED_SUM = "this client has been in this sum before"
    SPENT = "this update was revealed in a sum already"
    # How a sum ends
    TOO_FEW = "fewer clients than the threshold are left"
    DEALER = "the shares that a client dealt do not fit together"
    INSANE = "the sum is larger than honest updates can make it"
    CANCELLED = "the coordinator ended the sum"
    OVER = "the sum is over"


class SumRefusal(PotluckError):
    """A message, or a whole sum, that is refused; *reason* names the case."""

    def __init__(self, message: str, *, reason: Reason = Reason.MALFORMED, fix: str = "") -> None:
        super().__init__(f"{reason.value}: {message}", fix=fix)
        self.reason = reason
