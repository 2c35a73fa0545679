"""The arithmetic of a secure sum: whole numbers modulo 2ᵇ, thresholds, and shares of a secret."""
