"""Normalization methods, one file each, found by file name (see `normbench.methods.registry`)."""
