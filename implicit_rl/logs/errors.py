"""What reading a damaged log raises."""


class DamagedLogError(ValueError):
  """A log is cut short, altered or not what its name says; the message names the file."""
