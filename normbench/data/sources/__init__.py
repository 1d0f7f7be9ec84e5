"""Where datasets come from: each file here registers one or more sources, which params.yaml names with `source:`."""
