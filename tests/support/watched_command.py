"""A potluck command that says on stderr what it did about the network: SOCKET for each try, and GRPC or NO GRPC."""

import sys


def note(event: str, args: tuple[object, ...]) -> None:
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo"}:
        sys.stderr.write(f"SOCKET {event} {args[-1]!r}\n")


sys.addaudithook(note)

from potluck.cli.app import main  # noqa: E402

try:
    main()
finally:
    sys.stderr.write("GRPC\n" if "grpc" in sys.modules else "NO GRPC\n")
