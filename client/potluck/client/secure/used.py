"""What a client must not forget about sums, across crashes: which it was in, and which updates were revealed."""

from collections.abc import Sequence
from typing import Protocol


class UsedSums(Protocol):
    """A record that only ever grows; each call returns once it is durable."""

    def claim(self, sid: bytes, contribution: bytes) -> None:
        """Note that this client takes part in *sid* with *contribution*, before its shares leave.

        *contribution* names an update; a run's id and a version make a name of which there is one for each version.

        Raises:
            SumRefusal: USED_SUM, where the sum was claimed before: a process that was started again never answers;
                SPENT, where the contribution was revealed in a sum.
        """

    def spend(self, sid: bytes, contribution: bytes, cohort: Sequence[bytes]) -> None:
        """Note that *contribution* is revealed in a sum over the nodes *cohort*, before the shares for it leave."""

    def cohorts(self) -> Sequence[frozenset[bytes]]:
        """Return the nodes of the last 20 sums that this client helped to reveal, the latest last."""
