"""nasx: differentiable architecture search that composes spaces, methods and data sets."""

__version__ = "0.1.0"
