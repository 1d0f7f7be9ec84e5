"""benchmarks/gpu.py is for machines with a GPU; here every section of it runs on the CPU, in tiny sizes."""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_sections
from normbench.methods import registry
from normbench.system import device as devices
from tests.support import forks
from tests.support.project import ROOT, environment

NAMES = ("batch_norm", "network_deconvolution")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Sections set up torch for themselves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    devices.prepare("cpu")


def rows(name: str, *names: str) -> list[dict[str, Any]]:
    """The rows of a section, which JSON can have."""
    setting = gpu_sections.Setting("cpu", True, names or NAMES)
    return json.loads(json.dumps(list(getattr(gpu_sections, name)(setting)), allow_nan=False))


@pytest.mark.parametrize("name", ["waits", "speed", "architectures", "determinism", "resume", "gan", "evaluation"])
def test_a_section(name: str) -> None:
    found = rows(name)
    assert [row for row in found if row.get("problems")] == []
    of_methods = [row for row in found if "method" in row]
    assert {row["method"] for row in of_methods} == set(NAMES)
    shown = [column for column in gpu.COLUMNS if column[1] == name]
    for _, _, conditions, key, _ in shown:
        chosen = [row for row in of_methods if conditions.items() <= row.items()]
        assert conditions.get("precision") == "bfloat16" or len(chosen) == len(NAMES)
        assert all(key in row for row in chosen), f"{key} is no number of the section"


@pytest.mark.slow
def test_every_method_agrees() -> None:
    found = rows("agreement", *registry.names())
    assert [row for row in found if row.get("problems")] == []
    for row in found:
        if "method" in row:
            assert 0 < row["layer float32"] < 1e-4 < row["layer bfloat16"] < 1
    assert [row["whitening"] for row in found if "whitening" in row] == [5, 10, 15]


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_disagreement_is_a_problem(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is wrong in the fourth digit in float32, as with TF32, alone."""

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * (1 + 1e-3 * (place == "forward" and x.dtype == torch.float32))

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * (1 + 1e-3 * (place == "backward" and gradient.dtype == torch.float32))

    calls = []
    right = gpu_sections.Layer.forward

    def forward(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls.append(x.dtype)
        # The first training in float32 is the CPU's, the second the device's, of three steps each.
        return right(self, Rounded.apply(x) if calls.count(torch.float32) > 3 else x)

    monkeypatch.setattr(gpu_sections.Layer, "forward", forward)
    (row,) = [row for row in rows("agreement", "no_norm") if row.get("problems")]
    lines = [line for line in row["problems"] if "bfloat16" not in line]
    assert lines
    assert all(line.startswith("layer float32") for line in lines)


def test_an_error_of_a_method_is_its_own() -> None:
    found = rows("waits", "batch_norm", "no_such_method")
    assert not found[0]["problems"]
    assert found[1]["problems"][0].startswith("UserError: unknown method")


def test_the_compiled_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that takes no minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    (row,) = rows("compiled", "batch_norm")
    assert not row.get("problems")
    assert math.isfinite(row["gain"])


@pytest.mark.slow
def test_processes() -> None:
    found = rows("processes")
    assert [row["processes"] for row in found] == [1, 2]
    assert all(row["images/s"] > 0 and not row.get("problems") for row in found)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forks.run("-m", "benchmarks.gpu", *arguments, cwd=ROOT, env=environment(ROOT))


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run(
        "--device", "cpu", "--small", "--sections", "waits", "--methods", "batch_norm", "nothing", "--out", str(out)
    )
    assert done.returncode == 1, done.stderr
    content = json.loads(out.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert [row["method"] for row in content["sections"]["waits"]["rows"]] == ["batch_norm", "nothing"]
    (problem,) = content["problems"]
    assert problem.startswith("waits: nothing: ")
    assert done.stdout.splitlines()[-1] == problem
    assert any(line.split() == ["batch_norm", "-"] for line in done.stdout.splitlines())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = run("--sections", "waits")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "torch finds no CUDA GPU here" in done.stderr


def test_a_section_that_dies_or_takes_too_long_is_named() -> None:
    arguments = argparse.Namespace(device="cpu", small=True, methods=["batch_norm"])
    late = gpu.measure("agreement", arguments, 0.2)
    assert (late["why"], late["rows"]) == ("was ended after 0 s", [])
    arguments.device = "nowhere"
    dead = gpu.measure("waits", arguments, 60)
    assert dead["why"].startswith("ended with 2: ")
    lines = gpu.problems({"agreement": late, "waits": dead})
    assert [line.partition(":")[0] for line in lines] == ["agreement", "waits"]


def test_the_table() -> None:
    made = [
        {"method": "a", "precision": "float32", "images/s": 1234.5, "time": 1.0},
        {"method": "b", "precision": "float32", "images/s": 100.0, "time": 12.345, "problems": ["slow"]},
        {"method": "a", "precision": "bfloat16", "images/s": 5000.0, "time": 1.0, "launched": 1.0, "memory": 1.0},
    ]
    found = {
        "speed": {"rows": made, "why": None},
        "waits": {"rows": [{"method": "b", "waits": ["x.py:1", "y.py:2"]}], "why": None},
        "processes": {"rows": [{"processes": 2, "images/s": 10.0}], "why": "was ended after 3 s"},
    }
    lines = [line.split() for line in gpu.table(found)]
    assert lines[0] == ["method", "waits", "f32/s", "time", "bf16/s", "time", "launched", "memory"]
    assert lines[1] == ["a", "-", "1,234", "1.00", "5,000", "1.00", "1.00", "1.00"]
    assert lines[2] == ["b", "2", "100", "12.35", "-", "-", "-", "-"]
    assert " ".join(lines[3]) == "processes 2, images/s 10"
    assert gpu.problems(found) == ["speed: b: slow", "processes: was ended after 3 s"]
