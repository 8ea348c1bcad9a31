"""Stores of frames in memory and in files, and how they are made."""
