"""A run that is simulated: the coordinator's own decisions, over simulated time, with clients that really train."""
