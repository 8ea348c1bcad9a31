"""Runs: from gin files to runners, their directories, seeds and processes."""
