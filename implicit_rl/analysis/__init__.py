"""Turns logs into statistics and figures; only reads files."""
