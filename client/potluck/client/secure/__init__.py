"""The client's half of a secure sum: without sockets, clocks or threads."""
