"""The location of the reference code's arrays, outside of this repository. Without them, some tests are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden/cifar_c_deterministic.npz"
STATISTICS = SHARED / "golden/cifar_c_statistics.json"
CONSTANTS = SHARED / "spec/corruption_constants.json"
needs_shared = pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared, the reference's arrays")
