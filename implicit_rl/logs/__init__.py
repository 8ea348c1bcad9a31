"""Files that a run writes: checkpoints, metrics, collectors."""
