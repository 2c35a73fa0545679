"""gRPC's options, stated once, and the pinned channel of a client."""

from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from potluck.wire.invites import BadInvite, Invitation

MESSAGE_BYTES: Final = 4 * 1024 * 1024
CONTROL_BYTES: Final = 64 * 1024
PROTOCOL: Final = 1

_COMMON: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8_192),
    ("grpc.absolute_max_metadata_size", 8_192),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a compressed bomb is refused, not unpacked
)


def server_options() -> list[tuple[str, int]]:
    """Return the options of a coordinator's server."""
    return [
        *_COMMON,
        ("grpc.so_reuseport", 0),  # a second coordinator on the port is an error, not a silent partner
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.max_concurrent_streams", 16),
        ("grpc.max_connection_idle_ms", 120_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ]


def client_options(server_name: str) -> list[tuple[str, str | int]]:
    """Return the options of a client's channel to the coordinator whose certificate says *server_name*."""
    return [
        *_COMMON,
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.default_authority", server_name),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.enable_retries", 0),  # retries are the link's, with its own budget and jitter
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, also after sleep
    ]


def pinned_channel(address: str, invitation: Invitation) -> grpc.Channel:
    """Open a channel to *address* that trusts the invite's certificate authority and nothing else.

    Raises:
        BadInvite: the authority's certificate cannot be read.
    """
    try:
        authority = x509.load_der_x509_certificate(invitation.ca_der).public_bytes(Encoding.PEM)
    except ValueError:
        raise BadInvite("the invite's certificate cannot be read", fix="ask for a new invite") from None
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    return grpc.secure_channel(address, credentials, options=client_options(invitation.server_name))
