"""Data sources, which provide batches of transitions."""
