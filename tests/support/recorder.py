"""A proxy before a coordinator, with the coordinator's own certificate: it reads all that clients send, as it is."""

import contextlib
import select
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, CONTINUATION = 0, 1, 9
PADDED = 0x8


@dataclass
class Recorded:
    """What went from clients to the coordinator."""

    size: int = 0  # bytes
    messages: list[bytes] = field(default_factory=list)  # the gRPC messages of each stream, one after the other
    headers: list[int] = field(default_factory=list)  # sizes of header blocks

    def holds(self, needle: bytes) -> bool:
        return any(needle in message for message in self.messages)


class Recorder:
    """Passes TLS on to *port*; keeps what each connection sent, unencrypted."""

    def __init__(self, port: int, keys: Path, folder: Path) -> None:
        """*keys* is the coordinator's folder of keys; *folder* is for the recorder's own."""
        chain = folder / "recorder.pem"
        authority = (keys / "authority.pem").read_text("utf-8")
        chain.write_text((keys / "server.pem").read_text("utf-8") + authority[authority.index("-----BEGIN CERT") :])
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(chain)
        self._far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._far.check_hostname, self._far.verify_mode = False, ssl.CERT_NONE
        for context in (self._near, self._far):
            context.set_alpn_protocols(["h2"])
        self._port = port
        self._lock = Lock()
        self._sent: list[bytearray] = []
        self._threads: list[Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._run(self._accept)

    def recorded(self) -> Recorded:
        """Return what was sent so far, taken out of its HTTP/2 frames."""
        result = Recorded()
        with self._lock:
            sent = [bytes(one) for one in self._sent]
        for stream in sent:
            result.size += len(stream)
            parts: defaultdict[int, bytearray] = defaultdict(bytearray)
            for kind, flags, number, payload in frames(stream):
                if kind == DATA:
                    parts[number] += payload[1 : -payload[0] or None] if flags & PADDED else payload
                elif kind in {HEADERS, CONTINUATION}:
                    result.headers.append(len(payload))
            result.messages += [bytes(part) for part in parts.values()]
        return result

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # its own thread closes it
        for thread in self._threads:
            thread.join(5)

    def _run(self, work, *args) -> None:
        thread = Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                bare, _ = self._listener.accept()
            except OSError:
                return
            self._run(self._serve, bare)

    def _serve(self, bare: socket.socket) -> None:
        sent = bytearray()
        with (
            contextlib.suppress(OSError, ValueError),  # no TLS, a cut, or a close while it waits
            self._near.wrap_socket(bare, server_side=True) as near,
            self._far.wrap_socket(socket.create_connection(("127.0.0.1", self._port))) as far,
        ):
            self._open += [near, far]
            with self._lock:
                self._sent.append(sent)
            self._pass_on(near, far, sent)

    def _pass_on(self, near: ssl.SSLSocket, far: ssl.SSLSocket, sent: bytearray) -> None:
        """Pass bytes both ways, in one thread: OpenSSL's connections are not for two."""
        while True:
            ready = [end for end in (near, far) if end.pending()] or select.select([near, far], [], [])[0]
            for source in ready:
                data = source.recv(65_536)
                if not data:
                    return
                if source is near:
                    with self._lock:
                        sent += data
                (far if source is near else near).sendall(data)


def frames(stream: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (kind, flags, stream number, payload) of every whole frame that a client sent."""
    assert not stream or stream.startswith(PREFACE[: len(stream)]), stream[:40]
    at = len(PREFACE)
    while at + 9 <= len(stream):
        end = at + 9 + int.from_bytes(stream[at : at + 3], "big")
        if end > len(stream):
            return
        number = int.from_bytes(stream[at + 5 : at + 9], "big") & 0x7FFFFFFF
        yield stream[at + 3], stream[at + 4], number, stream[at + 9 : end]
        at = end


@contextlib.contextmanager
def recording(port: int, keys: Path, folder: Path) -> Iterator[Recorder]:
    """Stand between clients and *port*, and read along."""
    made = Recorder(port, keys, folder)
    try:
        yield made
    finally:
        made.close()
