"""Searches over experiments: compression under budgets, and more to come."""
