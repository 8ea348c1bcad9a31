"""Agents: each a short file with one loss; `base` holds everything they share."""
