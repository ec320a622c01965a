"""Slow, obvious implementations, written from the equations, that the product is compared with in float64."""
