"""What the two halves of a secure sum say to each other, byte for byte."""
