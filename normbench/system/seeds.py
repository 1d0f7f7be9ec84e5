"""Seeds for random draws: each purpose has a seed of its own."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """Returns a 63-bit seed for a purpose, derived from the suite's seed, e.g. `derive(0, "order", run_seed, epoch)`.

    Different purposes give unrelated seeds. The same purpose gives the same seed on every machine and Python version.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
