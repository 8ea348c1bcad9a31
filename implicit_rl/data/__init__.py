"""Data sources: where batches of transitions come from."""
