"""The normalization methods. There is one file per method, which params.yaml refers to by its name."""
