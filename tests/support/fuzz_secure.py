"""Fuzz secure sums: every decoder, both halves at once, and a lying coordinator.

    python tests/support/fuzz_secure.py --minutes 10
    python tests/support/fuzz_secure.py --seed 28        # one sum and one lie again, as a breach names it

A third of the time each.  Ends with status 1 and the seed at the first thing that is not as it should be.  The tests
play the first few hundred of the same cases.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from mutants import DECODERS, corpus, decode, mutated, pick
from wild_lies import wild_lie
from wild_sums import Seen, wild_sum


@dataclass
class Decodings:
    """How messages that are almost right were read."""

    found: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in DECODERS})

    def some(self, seed: int, of_each: int = 20) -> None:
        """Decode a few mutants of each kind."""
        rng = np.random.default_rng(seed)
        for name, found in self.found.items():
            for _ in range(of_each):
                reason = decode(name, mutated(rng, pick(rng, corpus()[name])))
                found["read" if reason is None else reason.name] += 1


def during(minutes: float, one: Callable[[int], None]) -> int:
    """Call *one* with seeds from zero for that long; return how many."""
    until = time.monotonic() + 60 * minutes
    for seed in count():
        if time.monotonic() >= until:
            return seed
        try:
            one(seed)
        except BaseException:
            print(f"seed {seed}")  # noqa: T201 - how it is played again
            raise
    raise RuntimeError("numbers ended")


def main() -> None:
    """Fuzz, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="play this one only")
    wanted = parser.parse_args()
    decodings, sums, lies = Decodings(), Seen(), Seen()
    plays: list[tuple[str, Callable[[int], None], object]] = [
        ("rounds of decoding", decodings.some, decodings),
        ("sums", lambda seed: wild_sum(seed, sums), sums),
        ("lies", lambda seed: wild_lie(seed, lies), lies),
    ]
    for what, play, seen in plays:
        played = 1 if wanted.seed is not None else during(wanted.minutes / len(plays), play)
        if wanted.seed is not None:
            play(wanted.seed)
        print(f"{played} {what}: {seen}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
