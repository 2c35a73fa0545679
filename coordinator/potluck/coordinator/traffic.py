"""Bytes in and out, counted in memory and written down in batches."""

import threading
from dataclasses import dataclass, field
from typing import final

from potluck.coordinator.store.database import Books


@final
@dataclass(slots=True)
class Traffic:
    """Bytes of updates received and of adapters sent since they were last written down."""

    _in: int = field(default=0, init=False)
    _out: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def received(self, count: int) -> None:
        """Count bytes of updates."""
        with self._lock:
            self._in += count

    def sent(self, count: int) -> None:
        """Count bytes of adapters."""
        with self._lock:
            self._out += count

    @property
    def unsaved(self) -> bool:
        """Whether there is anything to write down."""
        with self._lock:
            return bool(self._in or self._out)

    def save(self, books: Books) -> None:
        """Write down what is not yet."""
        with self._lock:
            arrived, left = self._in, self._out
            self._in = self._out = 0
        run = books.run()
        books.change_run(bytes_in=run.bytes_in + arrived, bytes_out=run.bytes_out + left)
