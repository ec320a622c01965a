"""What a run folder holds besides its record: checkpoints, the lock, notes; whole files or none."""
