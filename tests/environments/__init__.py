"""Tests of implicit_rl.environments."""
