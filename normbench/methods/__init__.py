"""The normalization methods, one a file, found by the name of their file."""
