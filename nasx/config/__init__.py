"""Configurations: composition, identity, and checks of types, targets and the consistency of settings."""
