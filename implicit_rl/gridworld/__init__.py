"""The gridworld laboratory: a small MDP with an exact oracle."""
