"""The commands and the Python of README, CONTRIBUTING.md and docs/."""
