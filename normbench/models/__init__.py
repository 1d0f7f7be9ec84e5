"""Architectures written against the method hooks (see `normbench.models.registry`)."""
