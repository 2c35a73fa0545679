"""The probe: text that the operator keeps, on which a new version must not be worse than the one it came from.

What measures is handed in, so a coordinator needs no torch; see evaluation for the process that does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, final

from potluck.aggregation.errors import PotluckError

TOLERANCE: Final = 0.01
"""Share of the loss by which a new version may be worse, unless the operator says otherwise."""


class Closing(PotluckError):
    """The coordinator stops, and nothing is measured any more; the round is judged when it starts again."""


class Measured(NamedTuple):
    """How well an adapter predicts the probe."""

    loss: float
    """Nats per token; not finite for an adapter that computes nonsense."""
    tokens: int
    """Predictions that it is the mean of."""


class Judge(Protocol):
    """Measures adapters on the probe; a call takes as long as a model needs for some thousand tokens."""

    @property
    def digest(self) -> str:
        """SHA-256 over the text and how it is measured, in hex: the log tells which probe it was, not what is in it."""

    def measure(self, adapter: Path | None) -> Measured:
        """Return the loss with the adapter in the blob at *adapter*, or of the base model alone.

        Raises:
            Closing: close was called.
            PotluckError: it could not be measured.
        """

    def close(self) -> None:
        """Stop; what is being measured is given up."""


@final
@dataclass(frozen=True, slots=True)
class Judgement:
    """A new version on the probe, beside the one that it came from."""

    before: Measured
    after: Measured
    tolerance: float
    probe: str

    @property
    def worse(self) -> bool:
        """Whether its loss is above (1 + tolerance) times that before, or is no number."""
        if not math.isfinite(self.after.loss):
            return True
        return math.isfinite(self.before.loss) and self.after.loss > (1 + self.tolerance) * self.before.loss

    @property
    def human(self) -> str:
        """What was found, in words."""
        change = f"{self.before.loss:.4f} before and {self.after.loss:.4f} after, in nats per token"
        bound = f"at most {self.tolerance:.2%} worse is allowed"
        return f"loss on the probe {change}, over {self.after.tokens} tokens; {bound}"

    def facts(self) -> Mapping[str, Any]:
        """Return it as JSON takes it: a loss that is no number is null."""
        return {
            "probe": self.probe,
            "tokens": self.after.tokens,
            "loss_before": _number(self.before.loss),
            "loss_after": _number(self.after.loss),
            "tolerance": self.tolerance,
        }


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """The operator's judge, and how much worse is too much.  An adapter is measured once, however often asked for."""

    judge: Judge
    tolerance: float = TOLERANCE
    _known: dict[bytes, Measured] = field(default_factory=dict, init=False, repr=False)

    def measured(self, digest: bytes, path: Path | None) -> Measured:
        """Return the loss of the adapter with that *digest*, empty for the base model; its blob is at *path*."""
        if digest not in self._known:
            self._known[digest] = self.judge.measure(path)
        return self._known[digest]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
