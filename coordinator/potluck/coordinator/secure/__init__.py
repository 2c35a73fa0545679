"""The coordinator's half of a secure sum: without sockets, clocks or a database."""
