"""Tensors to bytes and back: what an update travels in, and what a coordinator rests on."""
