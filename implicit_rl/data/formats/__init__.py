"""Files of datasets: DQN Replay's raw logs and TFDS, D4RL, Minari; read and written."""
