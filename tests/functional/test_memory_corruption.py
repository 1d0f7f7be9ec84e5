"""No narrow strided 1x1 convolution writes outside its memory (see normbench/functional/convolution.py).

Each path by which one reached oneDNN's faulty gradient is taken in a process of its own, on two threads, with the checks
of glibc's allocator. The fault needs batches that two threads
do not share evenly. Gradients are compared with those in float64, which oneDNN does not compute.
"""

from __future__ import annotations

import copy
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from normbench.evaluation.folding import fold
from normbench.functional import placement
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.fantastic_four import FantasticFour
from normbench.methods.fixup import Fixup
from normbench.methods.network_deconvolution import DeconvConv2d, NetworkDeconvolution
from normbench.methods.no_norm import NoNorm
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models import registry as models

STEPS = 8
BATCH = 63  # two threads do not share it evenly


def channels_last(x: Tensor) -> Tensor:
    """With the strides of channels_last also where there is one channel, or one pixel, and any others would do."""
    n, c, h, w = x.shape
    return torch.empty_strided((n, c, h, w), (h * w * c, 1, w * c, c), dtype=x.dtype).copy_(x)


def images(count: int, channels: int = 8, size: int = 16) -> Tensor:
    return torch.randn(count, channels, size, size)


def disturb() -> None:
    """Allocates and frees, upon which glibc looks at what lies around its blocks."""
    for i in range(100):
        torch.empty((7 * i) % 500 + 3)


def same(found: list[Tensor | None], expected: list[Tensor | None], tolerance: float) -> None:
    """tolerance: relative to the largest entry of all, as a bias in front of a norm has no gradient but rounding."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    scale = max(b.abs().max().item() for _, b in pairs)
    error = max((a.double() - b).abs().max().item() for a, b in pairs) / scale
    assert error < tolerance, f"a gradient is off by {error:.1e} of the largest entry"


def trained(
    layer: nn.Module,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
    channels: int = 8,
    size: int = 16,
    low: bool = False,
    run: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Gradients of all parameters and of the images, with those of a copy in float64.

    layout: gives images their strides. size: of the images. low: in bfloat16 autocast. run: the layer compiled.
    """
    reference = copy.deepcopy(layer).double()
    tolerance = 5e-2 if low else 1e-3
    for _ in range(STEPS):
        x = images(BATCH, channels, size)
        exact, x = x.double().requires_grad_(), layout(x).requires_grad_()
        layer.zero_grad(), reference.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = layer(x) if run is None else run(x)
        z = reference(exact)
        gradient = torch.randn(z.shape)
        y.backward(gradient.to(y))
        z.backward(gradient.double())
        same([x.grad], [exact.grad], tolerance)
        same([p.grad for p in layer.parameters()], [p.grad for p in reference.parameters()], tolerance)
        disturb()


def network(method: Method, memory_format: torch.memory_format | None = None) -> None:
    """Training the default suite's network; memory_format: what somebody else has put it into."""
    model = models.classifier("resnet8", {"width": 8}, method, 1, 10).train()
    method.initialize(model)
    model = placement.placed(model, "cpu") if memory_format is None else model.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    layout = placement.memory_format(model, "cpu") if memory_format is None else memory_format
    for _ in range(2 * STEPS):
        x = images(BATCH, 1, 12).contiguous(memory_format=layout)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        penalty = method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        disturb()


def conv(method: Method, channels: int = 8, groups: int = 1, place: str = "downsample") -> nn.Module:
    return method.conv(ConvSpec(channels, 16, 1, role=Role(place), stride=2, groups=groups))


class ChannelNorm(nn.Module):
    """A norm over channels, as one may write it, whose output is in channels_last whatever its input was."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Permuting(Method):
    """A method of somebody else: only a norm of its own."""

    def norm(self, channels: int, *, role: Role) -> nn.Module:
        return ChannelNorm(channels)


@dataclass(frozen=True)
class Foreign(Permuting):
    """And convolutions that are torch's."""

    def conv(self, spec: ConvSpec) -> nn.Module:
        kernel, stride, padding = spec.kernel_size, spec.stride, spec.padding
        return nn.Conv2d(spec.in_channels, spec.out_channels, kernel, stride, padding, groups=spec.groups, bias=False)


def last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)


def folded(layer: nn.Module) -> nn.Module:
    """The layer as one convolution for evaluation, whose weight is then trained, as a fine-tuning would."""
    with torch.no_grad():
        layer(images(16))
    result = fold(layer)
    assert isinstance(result, nn.Conv2d)
    return result


def compiled(layer: nn.Module) -> None:
    trained(layer, channels_last, run=torch.compile(layer))


def back_from_channels_last() -> nn.Module:
    """torch's layer in a network that was in channels_last before: its weight keeps these strides when it is placed."""
    layer = last(nn.Conv2d(8, 16, 1, 2))
    layer.weight.data = channels_last(layer.weight.data)
    return placement.placed(layer, "cpu")


def conv_in_channels_last() -> nn.Module:
    """Its weight alone has the strides of channels_last."""
    layer = conv(BatchNorm())
    layer.weight.data = channels_last(layer.weight.data)
    return layer


PATHS: dict[str, Callable[[], None]] = {
    "deconvolution": lambda: trained(DeconvConv2d(8, 16, 1, 2)),
    "deconvolution, channels_last": lambda: trained(last(DeconvConv2d(8, 16, 1, 2)), channels_last),
    "deconvolution, rows alone": lambda: trained(DeconvConv2d(8, 16, 1, (2, 1))),
    "deconvolution, padded": lambda: trained(DeconvConv2d(8, 16, 1, 2, 1)),
    "deconvolution, grouped": lambda: trained(DeconvConv2d(16, 16, 1, 2, groups=2), channels=16),
    "deconvolution, bfloat16": lambda: trained(DeconvConv2d(8, 16, 1, 2), low=True),
    "conv norm": lambda: trained(ConvNorm2d(8, 16, 1, 2), channels_last),
    "batch norm": lambda: trained(conv(BatchNorm()), channels_last),
    "batch norm, weight alone": lambda: trained(conv_in_channels_last()),
    "batch norm, one channel": lambda: trained(conv(BatchNorm(), 1), channels_last, channels=1),
    "batch norm, odd size": lambda: trained(conv(BatchNorm()), channels_last, size=15),
    "batch norm, one pixel": lambda: trained(conv(BatchNorm()), channels_last, size=1),
    "spectral norm": lambda: trained(conv(SpectralNorm()), channels_last),
    "fixup": lambda: trained(conv(Fixup()), channels_last),
    "no norm": lambda: trained(conv(NoNorm()), channels_last),
    "folded deconvolution": lambda: trained(folded(DeconvConv2d(8, 16, 1, 2)), channels_last),
    "folded conv norm": lambda: trained(folded(ConvNorm2d(8, 16, 1, 2)), channels_last),
    "torch's layer, placed": lambda: trained(placement.placed(nn.Conv2d(8, 16, 1, 2), "cpu"), channels_last),
    "torch's layer, weight alone": lambda: trained(back_from_channels_last()),
    "network, deconvolution": lambda: network(NetworkDeconvolution()),
}
SLOW: dict[str, Callable[[], None]] = {
    "network, a norm that permutes": lambda: network(Permuting()),
    "network, a norm that permutes, torch's convolutions": lambda: network(Foreign()),
    "network in channels_last, fantastic four": lambda: network(FantasticFour(), torch.channels_last),
    "compiled": lambda: compiled(conv(BatchNorm())),
}


def serve() -> None:
    """Takes paths named on standard input, each in a fork that ends with its exit code, so that torch loads once.

    Nothing may be computed here before: threads do not outlive a fork.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(2)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                torch.manual_seed(0)
                (PATHS | SLOW)[line.strip()]()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Takes a path; returns its exit code, negative for a signal, and what it wrote to standard error."""
    errors = tmp_path_factory.mktemp("memory") / "stderr"
    # Since glibc 2.34 the checks are in a library of their own; where it is missing, the loader only says so.
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    few = {"OMP_WAIT_POLICY": "passive", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment = os.environ | checks | few | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(errors.parent)
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            text=True,
        )  # fmt: skip

    def take(path: str) -> tuple[int, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        written = errors.stat().st_size
        print(path, file=process.stdin, flush=True)
        code = process.stdout.readline().strip()
        return int(code or -1), errors.read_text()[written:]

    yield take
    process.communicate()


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="the checks are glibc's")
@pytest.mark.parametrize("path", [*PATHS, *[pytest.param(path, marks=pytest.mark.slow) for path in SLOW]])
def test_memory_stays_whole(path: str, server: Callable[[str], tuple[int, str]]) -> None:
    if path == "compiled" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler g++, which inductor needs on a CPU")
    code, errors = server(path)
    assert code == 0, errors


if __name__ == "__main__":
    serve()
