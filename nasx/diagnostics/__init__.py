"""What a search says of itself while it runs: curvature, agreement, cells, when to stop, and the verdict."""
