"""Fleets and demonstrations on one machine."""
