"""Adapts libraries to this project: fixed and lazy imports, gin's names."""
