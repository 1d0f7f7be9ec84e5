"""Scores of generated images, as functions of features: distances of distributions, and of neighbours.

Nothing here knows of networks, files or records. All numbers are computed in float64 on the device of the features.
"""
