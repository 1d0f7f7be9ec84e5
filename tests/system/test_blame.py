"""What a message says of an exception: a lack of memory or of a deterministic kernel in words, whoever had none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from normbench.system import blame, plugins
from normbench.system.stage import guarded


def of_torch() -> None:
    nn.Linear(1 << 30, 1 << 24)


def of_numpy() -> None:
    np.empty(1 << 58, np.uint8)


def overflowing() -> None:
    torch.empty(1 << 40, 1 << 40)


def without_kernel() -> None:
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.set_deterministic_debug_mode(before)


CASES = {
    without_kernel: "recipe.deterministic: put_ has no deterministic kernel on this device",
    of_torch: "not enough memory: 72,057,594.0 GB were asked for at once",
    of_numpy: "not enough memory: 256 PiB were asked for at once",
    overflowing: "not enough memory",
}


@pytest.mark.parametrize("cause", CASES, ids=lambda cause: cause.__name__)
def test_what_torch_lacks_is_one_line(
    cause: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(blame.TRACEBACK, raising=False)
    monkeypatch.setattr(plugins, "_imported", set())  # another test may have named a layer of torch as its method
    with pytest.raises(SystemExit) as ended:
        guarded(cause)
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed == f"{CASES[cause]} ({blame.TRACEBACK}=1 shows the whole traceback)\n"


def test_other_errors_of_normbench_keep_their_traceback() -> None:
    def shapes() -> None:
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        guarded(shapes)


def test_a_file_is_somebodys_own_if_it_is_there_and_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is looked for in the folder of now, each time."""
    for path in (blame.__file__, os.__file__, torch.__file__):
        assert not blame.is_own(path)
    assert blame.is_own(__file__)
    monkeypatch.chdir(Path(blame.__file__).parent)
    assert not blame.is_own("blame.py")
    monkeypatch.chdir(tmp_path)
    assert not blame.is_own("blame.py")
    (tmp_path / "blame.py").write_text("")
    assert blame.is_own("blame.py")
    (tmp_path / "link.py").symlink_to(blame.__file__)
    assert not blame.is_own("link.py")
