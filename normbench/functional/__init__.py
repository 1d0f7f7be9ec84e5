"""Differentiable functions that the methods' layers are built from, and helpers for tracing and placing networks."""
