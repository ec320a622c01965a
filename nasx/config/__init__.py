"""Check a configuration: its types, its targets, and the consistency of its values."""
