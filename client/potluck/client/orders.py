"""In which order the samples of a lease are trained on."""

import secrets
from pathlib import Path
from typing import Final

from potluck.client.home import store
from potluck.client.work import order_of

FILE: Final = "order.secret"
BYTES: Final = 32


def secret_order(folder: Path, client_id: str, seed: int) -> int:
    """Return an order that nobody else can know or ask for again: of the secret in *folder*, made where it is missing.

    Where updates are summed, one that is trained again from the same adapter must not be the same update: sums that it
    was in, added and subtracted, would show it.  The secret stays for as long as the lease's *folder* does, so that
    training which was interrupted goes on.

    Raises:
        DiskFull: there is no room for it.
    """
    path = folder / FILE
    if not path.exists() or path.stat().st_size != BYTES:
        store(secrets.token_bytes(BYTES), path, secret=True)
    return order_of(client_id, seed, path.read_bytes())
