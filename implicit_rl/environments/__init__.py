"""Environments in the shape that Dopamine expects."""
