"""Placeholder until the runs are there."""
