"""Many runs from one file: games × seeds × gin overlays, on Ray or as a SLURM array."""
