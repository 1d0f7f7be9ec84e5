"""Training of GANs, the networks in whose features their images are compared, and the scores."""
