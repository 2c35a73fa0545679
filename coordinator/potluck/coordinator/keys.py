"""The coordinator's keys: the one that signs, and the certificates that TLS is pinned to.

Three files in a folder of mode 0700.  The Ed25519 key is the coordinator's identity: whoever has it is the coordinator.
The authority (P-256, 10 years) is in every invite; the server's certificate (P-256, 90 days) is made anew when less
than 30 days of it are left, also while it serves, which no client notices.  An Ed25519 server certificate would fail:
TLS clients built on BoringSSL do not offer it.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from potluck.aggregation.errors import PotluckError
from potluck.coordinator.blobs import sync_folder
from potluck.coordinator.clock import Clock
from potluck.wire.envelopes import peer_id, public_bytes
from potluck.wire.noise import SEED_BYTES, new_seed

AUTHORITY_DAYS: Final = 3_652
SERVER_DAYS: Final = 90
RENEW_DAYS: Final = 30
_BACKDATED: Final = timedelta(days=365)  # for volunteers whose clocks are behind
_PRIVATE: Final = 0o600


class BadKey(PotluckError):
    """A key file that cannot be used."""


@final
@dataclass(frozen=True, slots=True)
class Keys:
    """All that a coordinator proves itself with."""

    signing: Ed25519PrivateKey
    authority_der: bytes
    """The certificate that clients pin, DER."""
    server_key_pem: bytes
    server_chain_pem: bytes
    renew_at_s: float
    """When the server's certificate is due for a new one, by the coordinator's clock."""

    @property
    def public(self) -> bytes:
        """The 32 bytes that invites pin."""
        return public_bytes(self.signing)

    @property
    def coordinator_id(self) -> str:
        """The name that the key gives the coordinator."""
        return peer_id(self.public)

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return what a gRPC server shows its clients."""
        return grpc.ssl_server_certificate_configuration([(self.server_key_pem, self.server_chain_pem)])


def open_keys(folder: Path, now_s: float) -> Keys:
    """Read the keys in *folder*; make those that are missing, and a new server certificate where it is due.

    Raises:
        BadKey: a file cannot be read as what it should be.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = datetime.fromtimestamp(now_s, UTC)
    signing = _signing_key(folder / "coordinator.key")
    coordinator_id = peer_id(public_bytes(signing))
    authority_key, authority = _pair(folder / "authority.pem") or _authority(folder, coordinator_id, now)
    server = _pair(folder / "server.pem")
    if server is None or server[1].not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        server = _server(folder, coordinator_id, (authority_key, authority), now)
    return Keys(
        signing,
        authority.public_bytes(Encoding.DER),
        _pem(server[0]),
        server[1].public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM),
        (server[1].not_valid_after_utc - timedelta(days=RENEW_DAYS)).timestamp(),
    )


def secret_at(path: Path) -> bytes:
    """Read the 32 secret bytes at *path*; make them where they are missing.

    Raises:
        BadKey: the file holds something else.
    """
    if not path.exists():
        write_private(path, new_seed())
    seed = path.read_bytes()
    if len(seed) != SEED_BYTES:
        raise BadKey(
            f"{path} has {len(seed)} bytes, not {SEED_BYTES}", fix="put the run's own file back, from a backup"
        )
    return seed


def live_credentials(folder: Path, clock: Clock) -> grpc.ServerCredentials:
    """Return credentials that renew the server's certificate while it serves; a handshake may find a new one.

    A process that ran for 90 days would otherwise lose all its clients at once.
    """
    shown = [open_keys(folder, clock.now_s())]

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        if clock.now_s() < shown[0].renew_at_s:
            return None  # as it was
        shown[0] = open_keys(folder, clock.now_s())
        return shown[0].configuration()

    # None means "as it was", which the stubs do not know
    return grpc.dynamic_ssl_server_credentials(shown[0].configuration(), renewed)  # type: ignore[arg-type]


def _signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the identity, or make it; it is never made over one that is there."""
    if not path.exists():
        write_private(path, _pem(Ed25519PrivateKey.generate()))
    key = _private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} holds no Ed25519 key", fix="put the coordinator's own key back, from a backup")
    return key


def _pair(path: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
    """Return the private key and the certificate in one PEM file, or None if there is none."""
    if not path.exists():
        return None
    key = _private(path)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise BadKey(f"{path} holds no certificate", fix=f"put it back from a backup, or delete {path}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadKey(f"{path} holds no P-256 key", fix=f"put it back from a backup, or delete {path}")
    return key, certificate


def _authority(folder: Path, name: str, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make the authority that invites pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"potluck authority {name}")])
    builder = (
        _builder(subject, subject, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    write_private(folder / "authority.pem", _pem(key) + certificate.public_bytes(Encoding.PEM))
    return key, certificate


def _server(
    folder: Path, name: str, authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate], now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make the server's certificate, good for the name that clients expect whatever address they dial."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"potluck coordinator {name}")])
    builder = (
        _builder(subject, authority[1].subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.potluck.internal")]), critical=False)
    )
    certificate = builder.sign(authority[0], hashes.SHA256())
    write_private(folder / "server.pem", _pem(key) + certificate.public_bytes(Encoding.PEM))
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise BadKey(f"{path} holds no private key", fix="put the file back from a backup") from None


def _pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, data: bytes) -> None:
    """Write *data* to *path*, whole or not at all, readable by its owner only."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
