"""Flower both ways: our rules as Flower strategies, and any installed Flower strategy as our rule."""
