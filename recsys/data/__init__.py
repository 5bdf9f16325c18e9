"""From raw files to batches: sources, splits, fitting, encoding, loading."""
