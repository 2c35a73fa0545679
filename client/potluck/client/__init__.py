"""What runs on a volunteer's machine."""
