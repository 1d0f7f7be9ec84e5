"""Pictures inside the page."""

from __future__ import annotations

import base64
from pathlib import Path


def data_address(path: Path) -> str:
    """Returns a PNG file as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
