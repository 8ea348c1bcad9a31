"""Agents. Each is a short file with one loss; `base` has everything that they share."""
