"""Training of GANs, and their evaluation by FID."""
