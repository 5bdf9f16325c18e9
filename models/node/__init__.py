"""Classifiers of nodes: one file, one class, built from a graph with labels."""
