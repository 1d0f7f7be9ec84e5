"""References that say the same on every machine."""

from __future__ import annotations


def portable(text: str) -> str:
    """A reference to a file without its folder where that is an absolute one, which only this machine has."""
    return text.rpartition("/")[2] if text.startswith(("/", "~")) else text
