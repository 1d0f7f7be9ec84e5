"""Scores of trained classifiers."""
