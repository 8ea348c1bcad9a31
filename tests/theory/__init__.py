"""Tests of the theory laboratory."""
