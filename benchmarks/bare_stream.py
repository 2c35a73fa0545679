"""The bare side of transport.py: two gRPC streams of bytes, plain and over TLS, and nothing else.

Run as a program it is the server: python benchmarks/bare_stream.py BYTES FOLDER
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHUNK_BYTES = 1024 * 1024
DOWN, UP = "/bare.Bytes/Down", "/bare.Bytes/Up"
CERTIFICATE = "certificate.pem"


class Bare(grpc.GenericRpcHandler):
    """Two streams of bytes, and nothing else."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what answers the method."""
        if details.method == DOWN:
            return grpc.unary_stream_rpc_method_handler(lambda _request, _context: pieces(self._data))
        return grpc.stream_unary_rpc_method_handler(lambda stream, _context: str(sum(map(len, stream))).encode())


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut *data* into messages."""
    return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


def serve_bare(size: str, folder: str) -> None:
    """Serve both ports until standard input is closed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server = grpc.server(ThreadPoolExecutor(4), handlers=(Bare(os.urandom(int(size))),))
    plain = server.add_insecure_port("127.0.0.1:0")
    tls = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(secret, certificate)]))
    server.start()
    (Path(folder) / CERTIFICATE).write_bytes(certificate)
    print(plain, tls, flush=True)
    sys.stdin.read()
    server.stop(1).wait()


def bare_trip(channel: grpc.Channel, data: bytes, used: Callable[[], float]) -> tuple[float, float]:
    """Move the bytes down and up once; return wall seconds, and processor seconds as *used* counts them."""
    wall, cpu = time.perf_counter(), used()
    got = sum(map(len, channel.unary_stream(DOWN)(b"")))
    told = channel.stream_unary(UP)(pieces(data))
    wall, cpu = time.perf_counter() - wall, used() - cpu
    if not got == int(told) == len(data):
        raise RuntimeError(f"{got} bytes down, {told!r} up, {len(data)} wanted")
    return wall, cpu


def bare_channels(folder: Path, ports: list[str]) -> dict[str, grpc.Channel]:
    """Return a channel to each port of the server that told *ports*."""
    trusted = grpc.ssl_channel_credentials((folder / CERTIFICATE).read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    return {
        "bare gRPC": grpc.insecure_channel(f"127.0.0.1:{ports[0]}"),
        "bare gRPC, TLS": grpc.secure_channel(f"127.0.0.1:{ports[1]}", trusted, options),
    }


if __name__ == "__main__":
    serve_bare(*sys.argv[1:])
