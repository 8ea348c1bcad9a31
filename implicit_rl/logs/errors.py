"""Errors of damaged logs."""


class DamagedLogError(ValueError):
  """A log is truncated, altered or of another kind than its name; the message names the file."""
