"""Equal tuning: the same budget and search space for every variant, on training images that are held out."""
