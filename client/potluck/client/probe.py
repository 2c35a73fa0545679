"""Why a call did not get through: is nothing there, is it something else, or is it another coordinator?"""

import socket
import ssl
from typing import Final

from potluck.wire.invites import Invitation

PATIENCE_S: Final = 5.0
OUT_OF_TIME: Final = (9, 10)  # OpenSSL: not yet valid, expired


def diagnosis(address: str, invitation: Invitation) -> tuple[str, str]:
    """Return what is wrong at *address* and the fix, in words; empty strings where its TLS is as the invite says.

    Makes a TLS handshake with the invite's certificate authority pinned, and sends nothing.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=invitation.ca_der)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=invitation.server_name),
        ):
            return "", ""
    except (OSError, ValueError) as error:
        return explained(error, address)


def explained(error: OSError | ValueError, address: str) -> tuple[str, str]:
    """Return what *error* says about *address*, and the fix."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in OUT_OF_TIME:
            message = f"the certificate of the coordinator at {address} is out of its time; nothing was sent"
            fix = "check this machine's clock; if it is right, ask the operator to restart the coordinator"
        case ssl.SSLCertVerificationError():  # also a ValueError: it comes first
            message = f"the coordinator at {address} is not the one that made this invite; nothing was sent"
            fix = (
                "check the address with whoever invited you; if they set up the coordinator anew, ask for a new invite"
            )
        case ssl.SSLError():
            message = f"what answers at {address} is no coordinator; nothing was sent"
            fix = "check the address in the invite"
        case TimeoutError():
            message = f"nothing answers at {address} within {PATIENCE_S:g} s"
            fix = "check your network, and whether a firewall stands between"
        case ConnectionRefusedError():
            message, fix = f"nobody listens at {address}", "ask the operator to start the coordinator, then try again"
        case OSError():
            message, fix = f"{address} cannot be reached: {error.strerror or error}", "check your network"
        case _:
            message, fix = f"{address!r} is no address", "ask for a new invite"
    return message, fix
