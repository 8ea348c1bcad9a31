"""implicit_rl: measuring and preventing rank collapse in value-based deep reinforcement learning."""

__version__ = '0.1.0'
