"""The user's own methods and models are tried by every command before the training, once, and never in vain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from normbench.suite import resolve, trial
from normbench.system.errors import UserError
from tests.support.suite_folder import SuiteFolder

OWN = """from dataclasses import dataclass
import torch
from torch import nn
from normbench.methods.base import Method

class Layer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
    def forward(self, x):
        return x * self.gain

@dataclass(frozen=True)
class Own(Method):
    scale: float = 1.0
    def norm(self, channels, *, role):
        return Layer(channels)
"""
MODEL = """import torch
from torch import nn
from normbench.methods.base import ConvSpec, Role
from normbench.models.base import register_classifier

class Net(nn.Module):
    def __init__(self, method, channels, classes):
        super().__init__()
        self.conv = method.conv(ConvSpec(channels, 4, 3, padding=1, role=Role("stem")))
        self.norm = method.norm(4, role=Role("stem"))
        self.head = method.linear(4 * 8 * 8, classes, role=Role("head"))
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))

@register_classifier()
def net(method, channels, classes):
    return Net(method, channels, classes)
"""
PARAMS = """
suite: {seeds: [0], datasets: [digits], tasks: [small], variants: [batch_norm, own], baseline: batch_norm, gan_tasks: [], gan_variants: []}
corruptions: {names: [contrast], severities: [1]}
datasets:
  digits: {source: digits, image_size: 8}
tasks:
  small: {dataset: digits, model: resnet8, model_options: {width: 4}, recipe: {epochs: 1, batch_size: 128, crop_padding: 1}}
variants:
  batch_norm: {method: batch_norm}
  own: {method: own.py:Own}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuiteFolder:
    """A folder with a suite of batch norm and of a method of one's own that is right."""
    monkeypatch.chdir(tmp_path)
    made = SuiteFolder(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "own.py").write_text(OWN)
    return made


def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is tried from here on."""
    names: list[str] = []
    real = trial._try
    monkeypatch.setattr(trial, "_try", lambda cell, name: (names.append(name), real(cell, name))[1])
    return names


def check() -> list[str]:
    return trial.check(trial.of_params(resolve.resolve()))


def test_what_is_in_order_is_tried_once(folder: SuiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tried(monkeypatch)
    assert check() == []
    assert names == ["variant own, task small"]  # the tests of normbench have tried batch norm
    assert check() == []
    assert len(names) == 1
    for old, new, again in (
        ("own.py:Own}", "own.py:Own, options: {scale: 2.0}}", True),  # the options
        ("{width: 4}", "{width: 6}", True),  # the network
        ("batch_size: 128", "batch_size: 64", True),  # the recipe
        ("severities: [1]", "severities: [2]", False),
        ("seeds: [0]", "seeds: [0, 1]", False),
    ):
        before = len(names)
        folder.edit(old, new)
        check()
        assert (len(names) > before) == again, new
        check()
        assert len(names) == before + again
    trial.CHECKED.write_text("{")  # damaged: everything is tried again
    before = len(names)
    check()
    assert len(names) == before + 1
    assert len(json.loads(trial.CHECKED.read_text())) == 1


def test_what_is_wrong_is_said_once_and_each_time(folder: SuiteFolder) -> None:
    folder.edit("tasks: [small]", "tasks: [small, other]")
    small = next(line for line in PARAMS.splitlines() if line.startswith("  small:"))
    folder.edit(small, f"{small}\n{small.replace('small:', 'other:')}")
    folder.edit("return x * self.gain", "return x.mean() * self.gain", "own.py")
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            check()
        (line,) = str(caught.value).splitlines()
        assert line.startswith(
            "own.py:10: Layer, the norm of 4 channels, made shape (4, 1, 1) of (4, 4, 8, 8); expected "
        )
        assert line.endswith("(variant own, task small)")


@pytest.mark.slow
def test_commands_say_it_before_anything_is_made(folder: SuiteFolder) -> None:
    folder.edit("        return Layer(channels)", "        Layer(channels)", "own.py")
    said = "own.py:16: norm returned None for 4 channels; expected a torch.nn.Module; is a `return` missing? "
    for command in (
        ("normbench", "check"),
        ("stages.resolve",),
        ("normbench", "plan"),
        ("normbench", "sweep"),
    ):
        assert folder.run(*command, code=1) == f"{said}(variant own, task small)\n", command
    assert not (folder.path / "build").exists()
    folder.edit("norm(self", "norn(self", "own.py")
    said = "own.py:16: Own.norn is no hook of a method, so it is never called; did you mean 'norm'?\n"
    for command in (("normbench", "check"), ("stages.resolve",)):
        assert folder.run(*command, code=1) == said


@pytest.mark.slow
def test_bind_tries_what_needs_the_shape_of_the_images(folder: SuiteFolder) -> None:
    """A model of one's own may take one size and one number of channels: it is tried once they are known."""
    (folder.path / "net.py").write_text(MODEL.replace("4 * 8 * 8", "4 * 7 * 7"))
    folder.edit("model: resnet8, model_options: {width: 4}", "model: net.py:net")
    assert folder.run("normbench", "check") == "params.yaml: in order; the suite has 2 runs\n"
    folder.run("stages.resolve")
    folder.run("stages.download", "--dataset", "digits")
    folder.run("stages.corrupt", "--dataset", "digits")
    printed = folder.run("stages.bind", code=1)
    (line,) = printed.splitlines()
    assert line.startswith("net.py:13: RuntimeError: ")
    assert "(variant batch_norm, task small)" in line
    assert not (folder.path / "build/bound").exists()
    (folder.path / "net.py").write_text(MODEL)
    folder.run("stages.resolve")
    folder.run("stages.bind")
    assert (folder.path / "build/bound/small.json").is_file()


@pytest.mark.slow
def test_notes_are_shown_and_stop_nothing(folder: SuiteFolder) -> None:
    folder.edit("return x * self.gain", "return 1 * x", "own.py")
    note = "own.py:6: no gradient reaches norm.gain, stages.0.0.norm1.gain, "
    printed = folder.run("normbench", "check")
    assert f"\nnote: {note}" in printed
    (found,) = json.loads(folder.run("normbench", "check", "--json"))["notes"]  # from the cache
    assert found.startswith(note)
    folder.bind()


@pytest.mark.slow
def test_what_fails_later_is_one_line_too(folder: SuiteFolder) -> None:
    """As on another device, or after many steps, which a trial on a few images cannot show."""
    late = "self.steps += self.training; return x * self.gain * (1 / (5 - min(5, int(self.steps))))"
    folder.edit("return x * self.gain", late, "own.py")
    folder.edit("self.gain = ", "self.register_buffer('steps', torch.zeros(())); self.gain = ", "own.py")
    folder.bind()
    printed = folder.run("stages.train", "--task", "small", "--variant", "own", code=1)
    assert (
        "own.py:11: ZeroDivisionError: division by zero (NORMBENCH_TRACEBACK=1 shows the whole traceback)\n" in printed
    )
    assert "Traceback" not in printed
    printed = folder.run("stages.train", "--task", "small", "--variant", "own", code=1, NORMBENCH_TRACEBACK="1")
    assert "Traceback" in printed
