"""What runs where a potluck is hosted."""
