"""Many clients trained in one process, over one frozen base model that stays in memory."""
