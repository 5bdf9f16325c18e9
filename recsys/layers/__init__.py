"""Building blocks of models, by role. They know tensors, not schemas."""
