"""Properties run without a time limit per example: CI machines are slow and shared."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.register_profile("mutation", deadline=None, max_examples=5, derandomize=True, database=None)
settings.load_profile("unhurried")
