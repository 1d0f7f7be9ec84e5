"""References that are the same on every machine."""

from __future__ import annotations


def portable(text: str) -> str:
    """Returns a reference to a file, without its folder if that is an absolute path, which only this machine has."""
    return text.rpartition("/")[2] if text.startswith(("/", "~")) else text
