"""The one root of everything that a user can put right."""


class PotluckError(Exception):
    """Something the user can put right; anything else is a bug and keeps its traceback.

    The message says what happened, with the numbers.  *fix* says what to do about it and is kept as a note
    (PEP 678), so it survives tracebacks, logs and the trip between processes.  It has a default only because
    unpickling calls the class with the message.
    """

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        if fix:
            self.add_note(f"fix: {fix}")


class UnknownName(PotluckError):
    """A name that nothing is registered under."""


class BadSetting(PotluckError):
    """A value of the wrong type, out of range, or in contradiction with another."""


class BadTensor(PotluckError):
    """Tensors that are not what was declared: names, shapes, types, sizes, or a value that is not finite."""


class BadUpdate(PotluckError):
    """An update that cannot be combined with the others, or a round without any weight."""
