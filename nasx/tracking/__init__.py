"""The run folder: checkpoints, lock, metrics, record; files are written whole or not at all."""
