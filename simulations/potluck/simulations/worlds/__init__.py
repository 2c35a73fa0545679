"""Who takes part in a simulation: what text they hold, what machines they have, when they are there."""
