"""What cannot be simulated, and why."""

from potluck.aggregation.errors import PotluckError


class Impossible(PotluckError):
    """A scenario that contradicts itself, the recipe, or the number of clients."""


class TooLittleText(PotluckError):
    """There is not enough text for so many clients."""


class EmptyPartition(PotluckError):
    """A client would have nothing to train on, or nothing to measure with."""


class CannotWrite(PotluckError):
    """The clients' text could not be written down."""
