"""The outbox: what a client must not forget."""
