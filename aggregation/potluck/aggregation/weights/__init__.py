"""How much each update counts, and what stands in for it."""
