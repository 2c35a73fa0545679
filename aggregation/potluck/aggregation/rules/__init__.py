"""Aggregation rules: from the parts of a round's updates to one combined innovation per module."""
