"""The outer step: from the round's combined innovation to what is added to the master."""
