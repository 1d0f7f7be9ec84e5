"""Segmentation: recipe, crops, loss, training, and scores over all pixels of a set of images."""
