"""implicit_rl: measure and prevent rank collapse in value-based deep reinforcement learning."""

__version__ = '0.1.0'

from implicit_rl.compat import old_names

old_names.install()
