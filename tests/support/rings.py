"""Keyrings that tests can look into."""

from dataclasses import dataclass, field


@dataclass
class FakeRing:
    """A keyring that keeps what it is given, in the clear."""

    kept: dict[tuple[str, str], str] = field(default_factory=dict)

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


@dataclass
class LockedRing:
    """A keyring that its owner does not unlock."""

    def get_password(self, service: str, username: str) -> str | None:
        raise PermissionError("the owner said no")

    def set_password(self, service: str, username: str, password: str) -> None:
        raise PermissionError("the owner said no")


@dataclass
class ForgetfulRing:
    """A keyring that takes everything and keeps nothing, as keyring's null backend does."""

    def get_password(self, service: str, username: str) -> str | None:
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        return None
