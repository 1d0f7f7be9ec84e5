"""The device that trains: which one is chosen."""

from __future__ import annotations

import pytest
import torch

from normbench.system import device
from normbench.system.errors import UserError


def test_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NORMBENCH_DEVICE", "cpu")
    assert device.choose() == "cpu"
    monkeypatch.setenv("NORMBENCH_DEVICE", "gpu")
    with pytest.raises(UserError, match="NORMBENCH_DEVICE = 'gpu': unknown device; "):
        device.choose()
    monkeypatch.setenv("NORMBENCH_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"not on this machine, which has .*cpu"):
        device.choose()
    monkeypatch.delenv("NORMBENCH_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose() == "cuda"


def test_threads():
    """A run computes with the threads of its recipe on a CPU; a GPU does not ask for them."""
    before = torch.get_num_threads()
    try:
        device.use_threads(3, "cpu")
        assert torch.get_num_threads() == 3
        device.use_threads(2, "cuda")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
