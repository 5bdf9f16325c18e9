"""Losses, by the shape of their target."""
