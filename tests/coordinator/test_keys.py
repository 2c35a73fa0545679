"""The coordinator's keys are made once, private, and TLS accepts what they certify."""

import stat
from pathlib import Path

import pytest
from cryptography import x509

from potluck.coordinator.keys import RENEW_DAYS, SERVER_DAYS, BadKey, open_keys

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


def leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_the_keys_stay_the_same(tmp_path: Path):
    first, second = open_keys(tmp_path, NOW_S), open_keys(tmp_path, NOW_S + DAY_S)

    assert (first.public, first.authority_der, first.server_chain_pem) == (
        second.public,
        second.authority_der,
        second.server_chain_pem,
    )


def test_nobody_else_can_read_them(tmp_path: Path):
    open_keys(tmp_path / "keys", NOW_S)

    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_the_servers_certificate_is_for_the_name_that_clients_expect(tmp_path: Path):
    keys = open_keys(tmp_path, NOW_S)
    certificate = leaf(keys.server_chain_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == [f"{keys.coordinator_id}.potluck.internal"]
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(keys.authority_der))


def test_the_authority_can_certify_servers_and_no_other_authority(tmp_path: Path):
    authority = x509.load_der_x509_certificate(open_keys(tmp_path, NOW_S).authority_der)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value

    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert (
        3_652 + 365 <= (authority.not_valid_after_utc - authority.not_valid_before_utc).days <= 3_654 + 365
    )  # backdated


@pytest.mark.parametrize(("days", "renewed"), [(SERVER_DAYS - RENEW_DAYS - 1, False), (SERVER_DAYS - 29, True)])
def test_a_certificate_that_runs_out_is_renewed_and_no_client_notices(tmp_path: Path, days: int, renewed: bool):  # noqa: FBT001
    first = open_keys(tmp_path, NOW_S)

    second = open_keys(tmp_path, NOW_S + days * DAY_S)

    assert (first.server_chain_pem != second.server_chain_pem) is renewed
    assert first.authority_der == second.authority_der


@pytest.mark.parametrize("name", ["coordinator.key", "authority.pem", "server.pem"])
def test_a_damaged_key_is_named_and_never_replaced(tmp_path: Path, name: str):
    """A new identity in place of a damaged one would lock out every volunteer."""
    open_keys(tmp_path, NOW_S)
    (tmp_path / name).write_bytes(b"damaged")

    with pytest.raises(BadKey, match=name):
        open_keys(tmp_path, NOW_S)
    assert (tmp_path / name).read_bytes() == b"damaged"
