"""Differential privacy of whole contributions: clipping, correlated noise, and whether a run can learn under it."""
