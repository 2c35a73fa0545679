"""A TCP proxy on loopback that breaks connections as a bad network does."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from threading import Lock, Thread


class Chaos:
    """Passes bytes on to *port*; counts them; cuts every connection when told, or after so many bytes sent up."""

    def __init__(self, port: int) -> None:
        self.up_bytes = 0  # from clients to the coordinator, that the coordinator's side took
        self.connections = 0
        self.seen = b""  # the first bytes that clients sent
        self.cut_after_bytes: list[int] = []  # each cuts all connections once up_bytes has reached it
        self.refusing = False
        self.target = port
        self._lock = Lock()
        self._open: list[socket.socket] = []
        self._threads: list[Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection now."""
        with self._lock:
            found, self._open = self._open, []
        for end in found:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self.refusing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _run(self, work, *args) -> None:
        thread = Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self.connections += 1
                self._open += [near, far]
            self._run(self._pump, near, far, self._count)
            self._run(self._pump, far, near, lambda _: None)

    def _pump(self, source: socket.socket, sink: socket.socket, passed: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
                passed(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.up_bytes += len(data)
            self.seen += data[: max(0, 100_000 - len(self.seen))]
            due = bool(self.cut_after_bytes) and self.up_bytes >= self.cut_after_bytes[0]
            if due:
                self.cut_after_bytes.pop(0)
        if due:
            self.cut()


@contextlib.contextmanager
def chaos(port: int) -> Iterator[Chaos]:
    """Stand between clients and *port*."""
    made = Chaos(port)
    try:
        yield made
    finally:
        made.close()
