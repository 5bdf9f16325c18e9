"""Click-through-rate models: one file, one class, logits out."""
