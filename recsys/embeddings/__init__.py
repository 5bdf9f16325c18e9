"""Embedding tables: one collection, two backends, compression between encode and decode."""
