"""What a run writes: checkpoints, metrics, collectors."""
