"""Collaborative filters on graphs and their baselines: one file, one class, scores of all items."""
