"""Properties run without a time limit per example: CI machines are slow and shared."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
