"""Diagnoses of trained networks: measures, and a verdict for each question."""
