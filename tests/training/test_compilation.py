"""Training with `torch.compile`: the same training, its time apart, its kernels found by later processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from normbench.data.batches import on_device
from normbench.methods import network_deconvolution, registry
from normbench.training import loop
from normbench.training.compilation import keep_compiled
from tests.support import subjects
from tests.support.short_models import CHANNELS, short_classifier

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import torch
from torch._dynamo.utils import counters
from normbench.data.batches import on_device
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.training import loop
from normbench.training.recipe import Recipe

torch.set_num_threads(1)
chance = torch.Generator().manual_seed(0)
labels = torch.arange(64) % 4
pixels = torch.randint(0, 40, (64, 8, 8, 1), generator=chance)
for image, label in zip(pixels, labels.tolist()):  # the class is the one quadrant that is bright
    image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 150
images = on_device(pixels.to(torch.uint8), labels, [0.3], [0.3], "cpu")
recipe = Recipe(epochs=2, batch_size=24, crop_padding=1)
found = {}
for mode in (None, "default"):
    torch.manual_seed(0)
    method = methods.build("batch_norm", {})
    model = models.classifier("resnet8", {"width": 4}, method, 1, 4)
    outcome = loop.fit(model, method, images, recipe.model_copy(update={"compile": mode}), 0, lambda *_: None)
    found[str(mode)] = {
        "losses": [entry["loss"] for entry in outcome.history],
        "seconds": outcome.compile_seconds,
        "steps": int(model.norm.num_batches_tracked),
        "keys": len(model.state_dict()),
    }
found["hits"] = counters["inductor"]["fxgraph_cache_hit"]
found["misses"] = counters["inductor"]["fxgraph_cache_miss"]
print(json.dumps(found))
"""


def test_runs_that_share_the_cores_do_not_each_compile_on_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config

    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "kept")
    with config.patch(compile_threads=32):  # monkeypatch would leave it deleted, see `config.__delattr__`
        keep_compiled(str(tmp_path), 3)
        assert config.compile_threads == 3
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "kept"
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")
        keep_compiled(str(tmp_path), 5)
        assert config.compile_threads == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler g++, which inductor needs on a CPU")
def test_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    """Twice, with 64 images in batches of 24, so that the last one has another size."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    found = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    for one in found:
        eager, compiled = one["None"], one["default"]
        assert compiled["losses"] == pytest.approx(eager["losses"], rel=1e-3)
        assert eager["seconds"] == 0 < compiled["seconds"]
        assert compiled["steps"] == eager["steps"] == 6  # those of the compilation are taken back
        assert compiled["keys"] == eager["keys"]
    assert found[0]["misses"] > 0
    assert found[1]["hits"] == found[0]["misses"] + found[0]["hits"]
    assert found[1]["misses"] == 0


def test_without_a_compiler_there_is_one_line(tmp_path: Path) -> None:
    env = os.environ | {
        "CXX": str(tmp_path / "none"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    compiled = SCRIPT.replace('(None, "default")', '("default",)')
    assert compiled != SCRIPT
    script = f"from normbench.system import stage\nstage.guarded(lambda: exec({compiled!r}, {{}}))"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("recipe.compile = 'default': torch.compile fails here: ")
    assert "Traceback" not in done.stderr


def trained(compile: str | None, counter: CompileCounterWithBackend) -> tuple[torch.nn.Module, list[float]]:
    """A short VGG, whose first layer is frozen in every third and fourth step, and the losses of eight epochs."""
    torch.manual_seed(0)
    network = short_classifier("vgg", registry.build("network_deconvolution", {}))
    pixels = torch.randint(0, 256, (10, 8, 8, CHANNELS), generator=torch.Generator().manual_seed(0))
    images = on_device(pixels.to(torch.uint8), torch.arange(10) % 5, [0.5] * 3, [0.3] * 3, "cpu")
    recipe = subjects.recipe(epochs=8, batch_size=10, compile=compile, lr=0.01)
    real = torch.compile

    def compiling(model: torch.nn.Module, *, mode: str, dynamic: bool) -> Any:
        return real(model, backend=counter, fullgraph=True, dynamic=dynamic)

    with mock.patch.object(torch, "compile", compiling):
        outcome = loop.fit(network, registry.build("network_deconvolution", {}), images, recipe, 0, lambda *_: None)
    return network, [entry["loss"] for entry in outcome.history]


def test_frozen_layers_are_compiled_once_for_each_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the step is not part of what is compiled."""
    monkeypatch.setattr(network_deconvolution, "FREEZE_STEPS", 2)
    monkeypatch.setattr(network_deconvolution, "FREEZE_CYCLE", 4)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    (network, losses), (reference, expected) = trained("default", counter), trained(None, counter)
    assert counter.frame_count == 2
    assert losses == pytest.approx(expected, rel=1e-4)
    stem, reference_stem = network.features[0], reference.features[0]
    assert stem.freeze
    assert stem.steps == reference_stem.steps == 8
    assert stem.decided is None
    assert torch.allclose(stem.running_deconv, reference_stem.running_deconv, rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()
