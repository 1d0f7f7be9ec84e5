"""Training of GANs, and their FID."""
