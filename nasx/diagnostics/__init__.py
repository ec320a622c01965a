"""Diagnostics of a search: curvature, gradient agreement, cell structure, early stopping, verdict."""
