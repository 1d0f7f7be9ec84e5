"""One thread and one core for each test process: the tests run side by side, and small tensors gain from no more."""

from __future__ import annotations

import os
from collections import Counter

from normbench.system import threads

threads.set_environment()  # before torch is imported; what the tests start inherits it

os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # so that what a test calls is called in its own process

import pytest  # noqa: E402  # the variables come first
import torch  # noqa: E402  # the variables come first

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that have the most slow tests, so that no process is left alone with one of them."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
