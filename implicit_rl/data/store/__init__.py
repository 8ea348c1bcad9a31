"""Stores of frames in memory and in files, and their creation."""
