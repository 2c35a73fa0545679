"""What can go wrong around a model, as far as a person can put it right."""

from potluck.aggregation.errors import PotluckError


class NoBase(PotluckError):
    """The base model could not be found or fetched."""


class BadBase(PotluckError):
    """The base model is there and must not, or cannot, be used."""


class BadAdapter(PotluckError):
    """An adapter does not fit the model."""


class TrainingDiverged(PotluckError):
    """The loss is not a finite number any more."""


class NoBatches(PotluckError):
    """Not one sample gave a token to train on."""


class BadCheckpoint(PotluckError):
    """A checkpoint on this disk cannot be read."""


class OutOfMemory(PotluckError):
    """A training step does not fit into this machine's memory."""


class BadGradients(PotluckError):
    """Gradients of single examples cannot be had, so that none of them can be bounded."""
