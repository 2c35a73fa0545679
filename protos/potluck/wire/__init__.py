"""What client and coordinator say to each other, and how they prove it."""
