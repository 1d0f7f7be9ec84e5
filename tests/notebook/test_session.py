"""What a session has that no file has: classes, method objects and arrays, and surroundings that stay as they are."""

from __future__ import annotations

import linecache
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normbench
from normbench.checks import subjects
from normbench.methods.group_norm import GroupNorm
from normbench.methods.plain import adapted
from normbench.notebook import comparison, dataset, surroundings
from normbench.notebook.variants import compared
from normbench.system import layout, progress
from normbench.system.errors import UserError

# As a notebook has it: no file, and a module that cannot be imported.
CELL = '''
import torch
from torch import nn

class Scaled(nn.Module):
    """A norm with an option that has no default."""

    def __init__(self, channels, power: float, gain: float = 1.0):
        super().__init__()
        self.weight, self.power = nn.Parameter(gain * torch.ones(channels, 1, 1)), power

    def forward(self, x):
        return self.weight * x * (x.square().mean((1, 2, 3), keepdim=True) + 1e-5) ** -self.power
'''
QUICK: dict[str, Any] = {"seeds": 1, "model_options": {"width": 2}, "epochs": 1, "severities": 2, "corruptions": "fog"}
LONGER = QUICK | {"epochs": 6}  # after one epoch, some of these networks name the same class for every image


def cell(text: str = CELL) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(text, names)
    return names


def arrays() -> list[np.ndarray]:
    """Grey images of 8 x 8 pixels in 3 classes, which differ in their brightness: 40 for training and 12 for the test."""
    chance, found = np.random.default_rng(0), []
    for count in (40, 12):
        labels = np.arange(count) % 3
        found += [(chance.integers(0, 60, (count, 8, 8)) + 80 * labels[:, None, None]).astype(np.uint8), labels]
    return found


def state() -> list[Any]:
    """The global generators and what torch is set to."""
    modes = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()]
    settings = [torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32]
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate(), *modes, *settings]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[normbench.Comparison, dict[str, Any]]]:
    """A comparison of what a session has, and the session's names."""
    with pytest.MonkeyPatch.context() as patch:
        folder, temporary = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("temporary")
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setattr("tempfile.tempdir", str(temporary))
        names, kept = cell(), torch.get_num_threads()
        methods = [
            (names["Scaled"], {"power": 0.5}),
            (names["Scaled"], {"power": 0.25, "gain": 2}),
            adapted(names["Scaled"])(power=0.125),
            GroupNorm(channels_per_group=2),
            nn.InstanceNorm2d,
            "batch_norm",
        ]
        try:
            torch.set_num_threads(2)
            torch.set_default_dtype(torch.float64)
            with torch.inference_mode():
                before = state()
                board = normbench.compare(methods, arrays(), batch_size=13, baseline="batch_norm", **LONGER)
                assert state() == before
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(kept)
        assert list(folder.iterdir()) == list(temporary.glob("normbench*")) == []
        yield board, names


def test_variants_have_names_methods_and_options(session: Any) -> None:
    board, _ = session
    assert dict(zip(board["variant"], board["method"], strict=True)) == {
        "Scaled(power=0.5)": "__main__:Scaled",
        "Scaled(power=0.25, gain=2)": "__main__:Scaled",
        "Scaled(power=0.125)": "__main__:Scaled",
        "group_norm(channels_per_group=2)": "group_norm",
        "InstanceNorm2d": "torch.nn.modules.instancenorm:InstanceNorm2d",
        "batch_norm": "batch_norm",
    }
    options = {variant: record.provenance.variant.options for (variant, _), record in board.records.items()}
    assert options["Scaled(power=0.25, gain=2)"] == {"power": 0.25, "gain": 2.0}
    assert options["Scaled(power=0.125)"] == {"power": 0.125, "gain": 1.0}
    assert options["group_norm(channels_per_group=2)"]["channels_per_group"] == 2
    assert len({record.run for record in board.records.values()}) == 6
    assert board.set_index("variant")["mce"]["batch_norm"] == 100


def test_the_same_numbers_again_whatever_ran_before(session: Any) -> None:
    """With gradients switched on, other generators, and tensors in place of arrays, by name."""
    board, names = session
    given = {name: torch.from_numpy(each) for name, each in zip(dataset.ARRAYS, arrays(), strict=True)}
    torch.manual_seed(7)
    again = normbench.compare({"mine": (names["Scaled"], {"power": 0.5})}, given, batch_size=13, quiet=True, **LONGER)
    (one,), other = again.records.values(), board.records["Scaled(power=0.5)", 0]
    assert one.run == other.run
    assert one.metrics == other.metrics
    assert one.files["weights.pt"].sha256 == other.files["weights.pt"].sha256
    assert (again.loc[0, "variant"], again.loc[0, "mce"]) == ("mine", 100)  # relative to itself


def test_another_text_of_a_class_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the session keeps its text, as IPython does; elsewhere the name has to do."""

    def code(text: str, kept: bool) -> str:
        monkeypatch.setitem(linecache.cache, "<cell>", (len(text), None, text.splitlines(keepends=True), "<cell>"))
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, "<cell>" if kept else "<lost>", "exec"), names)
        (found,) = compared([(names["Scaled"], {"power": 0.5})])
        return found.variant.method_code

    changed = CELL.replace("1e-5", "1e-4")
    assert code(CELL, True) == code(CELL, True) != code(changed, True)
    assert code(CELL, False) == code(changed, False) != code(CELL, True)


def test_a_run_that_diverges_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    board = normbench.compare(["no_norm"], arrays(), batch_size=13, lr=1e30, momentum=0.0, **QUICK)
    assert board[["finished", "diverged"]].values.tolist() == [[0, 1]]
    assert board["clean_accuracy"].isna().all()
    assert "the run diverged" in board.loc[0, "missing"]
    assert len(board.predictions) == 0
    assert list(board.predictions) == ["variant", "seed", "corruption", "severity", "image", "label", "predicted"]
    shown = capsys.readouterr()
    assert "no_norm seed 0, run 1 of 1: diverged at step" in shown.err
    assert shown.out == ""


class Remembering(nn.Module):
    """A norm that keeps its statistics where torch does not see them."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.ones(channels, 1, 1)), [1.0]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.kept[0] = 0.5 * self.kept[0] + 0.5 * float(x.detach().square().mean())
        return self.weight * x / self.kept[0] ** 0.5


def test_a_class_is_tried_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "load", lambda *_: pytest.fail("the training was prepared"))
    with pytest.raises(UserError, match="stored and loaded, the network gives other results") as error:
        normbench.compare(["batch_norm", Remembering], arrays(), batch_size=13, quiet=True, **QUICK)
    assert "test_session.py" in str(error.value)


def test_state_that_is_not_stored_is_found_after_the_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "check", lambda *_: [])
    with pytest.raises(UserError, match=r"^Remembering: what it computes is not all in its parameters and buffers: "):
        normbench.compare([Remembering], arrays(), batch_size=13, quiet=True, **QUICK)


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    before = progress.listener
    with surroundings.undisturbed(quiet=True), progress.Progress("title", 1) as shown:
        shown.update(1, "fields")
        shown.close("summary")
        print("of somebody's code")
    assert capsys.readouterr() == ("", "of somebody's code\n")
    assert progress.listener is before
    with surroundings.undisturbed(quiet=False), progress.Progress("title", 1) as shown:
        shown.close("summary")
    assert capsys.readouterr().err.startswith("title: summary")


def test_errors_have_no_long_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def frames() -> int:
        with pytest.raises(UserError) as error:
            normbench.compare(["batch_nrm"], quiet=True)
        return len(error.traceback)

    short = frames()
    monkeypatch.setenv("NORMBENCH_TRACEBACK", "1")
    assert short <= 4 < frames()


def test_downloads_are_kept_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.delenv("NORMBENCH_DOWNLOADS", raising=False)
    with surroundings.downloads_in_cache():
        assert layout.downloads() == tmp_path / "cache/downloads"
    assert layout.downloads() == Path("downloads")
    monkeypatch.setenv("NORMBENCH_DOWNLOADS", "elsewhere")
    with surroundings.downloads_in_cache():
        assert layout.downloads() == Path("elsewhere")


def test_whose_params_yaml_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dataset of normbench's own is found in it, with its mistakes; that of another program is none of our business."""
    monkeypatch.chdir(tmp_path)

    def size(text: str) -> Any:
        Path("params.yaml").write_text(text, encoding="utf-8")
        return dataset.prepared("digits", None, tmp_path / f"data{len(list(tmp_path.iterdir()))}").image_size

    whole = "suite: {seeds: [0], datasets: [digits], tasks: [], variants: [], gan_tasks: [], gan_variants: []}\n"
    assert size("lr: 0.1\ndata: {digits: 3}\n") == 16
    assert size("lr: [0.1\n") == 16
    assert size(f"{whole}datasets: {{digits: {{source: digits, image_size: 9}}}}\n") == 9
    with pytest.raises(UserError, match=r"params\.yaml:2: datasets\.digits\.image_size = 3: must be at least"):
        size(f"{whole}datasets: {{digits: {{source: digits, image_size: 3}}}}\n")
    with pytest.raises(UserError, match="unknown key; did you mean 'image_size'"):
        size(f"{whole}datasets: {{digits: {{source: digits, imag_size: 9}}}}\n")
