"""Recommenders of bundles: one file, one class, scores of all bundles for a user."""
