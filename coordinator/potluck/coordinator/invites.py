"""Making, listing and revoking invites."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from potluck.aggregation.errors import BadSetting
from potluck.coordinator.site import Site
from potluck.coordinator.store.records import InviteRecord
from potluck.wire.invites import ID_BYTES, LAYOUT, MAX_ADDRESSES, write
from potluck.wire.refusals import Refusal
from potluck.wire.v1.enrollment_pb2 import Invite

WEEK_S: Final = 7 * 86_400.0
MAX_PORT: Final = 65_535


@final
@dataclass(frozen=True, slots=True)
class InviteBook:
    """The operator's invites."""

    site: Site

    def make(self, addresses: Sequence[str], uses: int = 1, expires_s: float = WEEK_S) -> str:
        """Return the token of a new invite for *uses* clients, good for *expires_s* seconds from now.

        *addresses* ("host:port") are tried by clients in this order.

        Raises:
            BadSetting: no address, more than four, or one without a port; no use; or no time.
        """
        _check(addresses, uses, expires_s)
        now_s = self.site.clock.now_s()
        invite_id = secrets.token_bytes(ID_BYTES)
        token = write(
            self.site.keys.signing,
            Invite(
                version=LAYOUT,
                run_id=self.site.run_id,
                run_name=self.site.plan.recipe.run.name,
                addresses=addresses,
                ca_der=self.site.keys.authority_der,
                invite_id=invite_id,
                expires_unix_s=max(0, int(now_s + expires_s)),
                max_uses=uses,
            ),
        )
        with self.site.store.writing(self.site.fence) as books:
            books.invites.add(
                InviteRecord(
                    invite_id, token, uses, uses=0, expires_s=now_s + expires_s, revoked=False, created_s=now_s
                )
            )
            books.log.append("invite_made", invite_id=invite_id, uses=uses)
        return token

    def revoke(self, invite_id: bytes) -> InviteRecord:
        """Let nobody else in with an invite; those who are in stay.

        Raises:
            Refusal: there is no such invite.
        """
        with self.site.store.writing(self.site.fence) as books:
            found = books.invites.find(invite_id)
            if found is None:
                raise Refusal(f"there is no invite {invite_id.hex()}", code="bad_invite", fix="list the invites")
            if not found.revoked:
                books.invites.revoke(invite_id)
                books.log.append("invite_revoked", invite_id=invite_id, used=found.uses)
            return books.invites.find(invite_id) or found

    def all(self) -> tuple[InviteRecord, ...]:
        """Return every invite, the newest first."""
        with self.site.store.reading() as books:
            return books.invites.all()


def _check(addresses: Sequence[str], uses: int, expires_s: float) -> None:
    """Refuse an invite that nobody could use."""
    if not 0 < len(addresses) <= MAX_ADDRESSES:
        raise BadSetting(f"{len(addresses)} addresses", fix=f"give 1 to {MAX_ADDRESSES}, each as host:port")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise BadSetting(f"{address!r} is no address", fix="write host:port, such as example.org:7777")
    if uses < 1:
        raise BadSetting(f"an invite for {uses} clients", fix="allow at least one use")
    if not 0 < expires_s < float("inf"):
        raise BadSetting(f"an invite for {expires_s} seconds", fix="let it live for some time, such as 604800")
