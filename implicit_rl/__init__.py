"""implicit_rl: measure and prevent rank collapse in value-based deep reinforcement learning."""

__version__ = '0.1.0'
