"""Tests of what is done with trained runs."""
