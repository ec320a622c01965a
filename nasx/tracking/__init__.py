"""The run folder: checkpoints, lock, metrics and record. Files are written atomically."""
