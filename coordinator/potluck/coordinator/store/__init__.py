"""The coordinator's memory: the one door to the database.  Rows never leave; frozen records do."""
