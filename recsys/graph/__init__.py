"""Who did what with which item: interactions, what is known about them, and propagation."""
