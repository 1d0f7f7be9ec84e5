"""Every random draw has a seed of its own, derived from what it is for."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the suite's seed and a purpose, e.g. `derive(0, "order", run_seed, epoch)`.

    Different purposes give unrelated seeds; the same one gives the same seed on every machine and Python version.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
