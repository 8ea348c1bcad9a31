"""Tests of the gridworld."""
