"""What an update gives away to whoever holds the base model: attacks to be measured, with and without protections."""
