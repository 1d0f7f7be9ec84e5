"""Differentiable functions that the layers of the methods are made of."""
