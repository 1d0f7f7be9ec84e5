"""Measures time and memory of the layers of the four methods, against Conv2d + BatchNorm2d and their published forms.

It times forward plus backward pass in training mode, in float32. All layers take turns in one process, so that load on
the machine affects all of them; the table has medians, and ratios of medians. Memory is what a layer holds from the
forward to the backward pass, its output included, and the peak over both passes. On the CPU, memory that a kernel uses
internally is not included. With one thread on a CPU, times are processor time, else times of the clock. On a CPU the
floor is what a perfect implementation would need at this machine's peaks (`benchmarks/floors.py`), as a ratio as well.

    python -m benchmarks.layers [--rounds 15] [--threads 2] [--format contiguous|channels_last]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import floors, machine, published
from benchmarks.turns import clock, take_turns
from normbench.evaluation import fold
from normbench.methods import registry as methods
from normbench.methods.conv_norm import ConvNorm2d
from normbench.methods.network_deconvolution import DeconvConv2d
from normbench.methods.spectral_batch_norm import AfterBatchNorm, SpectralBatchNorm2d
from normbench.models import registry as models
from normbench.system import device as devices
from normbench.system.memory import LiveBytes

SHAPES = ((128, 64, 32), (128, 256, 8))  # N, channels, height and width
ALONE = "conv"
CONV, NORM = "conv, batch_norm", "batch_norm"  # the baselines of the ratios
# What the floor of a layer starts from; that of layers in the operations of their authors is not given.
STARTS = {"network_deconvolution": ALONE, "conv_norm": CONV, "batch_norm, spectral": NORM}


def layers(channels: int) -> dict[str, tuple[nn.Module, str]]:
    """Returns each layer, with the name of the baseline of its ratios."""
    batch_norm = nn.BatchNorm2d
    return {
        ALONE: (nn.Conv2d(channels, channels, 3, padding=1), CONV),
        CONV: (nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), batch_norm(channels)), CONV),
        "network_deconvolution": (DeconvConv2d(channels, channels, 3, padding=1), CONV),
        "network_deconvolution, published": (published.Deconv(channels, channels, 3, 1), CONV),
        "conv_norm": (ConvNorm2d(channels, channels, 3, padding=1), CONV),
        "conv_norm, published": (published.ConvNorm(channels, channels, 3, 1), CONV),
        NORM: (batch_norm(channels), NORM),
        "batch_norm, spectral": (AfterBatchNorm(batch_norm(channels), SpectralBatchNorm2d(channels)), NORM),
        "batch_norm, spectral, published": (
            nn.Sequential(batch_norm(channels), published.SpectralBatchNorm(channels)),
            NORM,
        ),
    }


def memory(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[float, float]:
    """Returns the MiB held between the passes, and the peak over both."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        y = layer(x)
        held = torch.cuda.memory_allocated() - before
        y.backward(gradient)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with LiveBytes() as live:
            y = layer(x)
            held = live.live
            y.backward(gradient)
        peak = live.peak
    return held / 2**20, peak / 2**20


def table_of_layers(rounds: int, device: str, memory_format: torch.memory_format, peaks: floors.Peaks | None) -> None:
    """Prints time and memory of every layer, with ratios to its baseline, and floors if there are peaks."""
    for count, channels, size in SHAPES:
        x = torch.randn(count, channels, size, size, device=device).to(memory_format=memory_format).requires_grad_()
        gradient = torch.randn_like(x)
        chosen = layers(channels)

        def step(name: str, x: Tensor = x, gradient: Tensor = gradient, chosen: dict = chosen) -> None:
            chosen[name][0].zero_grad(set_to_none=True)
            x.grad = None
            chosen[name][0](x).backward(gradient)

        for layer, _ in chosen.values():
            layer.to(device).to(memory_format=memory_format)
        times = take_turns({name: lambda name=name: step(name) for name in chosen}, rounds, device)
        spaces = {name: memory(layer, x, gradient) for name, (layer, _) in chosen.items()}
        title = f"{count} x {channels} x {size} x {size}, 3x3"
        print(f"\n{title:34}      ms   ratio   floor   held MiB  ratio   peak MiB  ratio")
        for name, (layer, base) in chosen.items():
            held, peak = (f"{a:9.1f} {a / b:6.2f}x" for a, b in zip(spaces[name], spaces[base], strict=True))
            floor = ""
            if name in STARTS and peaks is not None:
                least = times[STARTS[name]] + peaks.milliseconds(floors.parts(layer, x.detach(), True))
                floor = f"{least / times[base]:.2f}x"
            ratio = f"{times[name]:7.1f} {times[name] / times[base]:6.2f}x"
            print(f"{name:34} {ratio} {floor:>7} {held} {peak}", flush=True)


def share_of_penalty(rounds: int, device: str) -> None:
    """Prints the time of Fantastic Four's penalty as a share of a training step of ResNet-18 at batch size 128."""
    method = methods.build("fantastic_four", {})
    model = models.classifier("resnet18", {}, method, 3, 10).to(device)
    reference = published.FantasticFour(model)
    x, y = torch.randn(128, 3, 32, 32, device=device), torch.randint(10, (128,), device=device)
    works: dict[str, Callable[[], object]] = {
        "without the penalty": lambda: nn.functional.cross_entropy(model(x), y).backward(),
        "fantastic_four alone": lambda: method.penalty(model).backward(),
        "fantastic_four alone, published": lambda: reference.penalty().backward(),
    }
    times = take_turns(works, max(3, rounds // 5), device)
    print(f"\n{'step of ResNet-18, batch 128':34}      ms   share")
    for name, value in times.items():
        print(f"{name:34} {value:7.1f} {100 * value / times['without the penalty']:6.2f}%", flush=True)


def table_of_inference(rounds: int, device: str) -> None:
    """Prints the time of an evaluation of ResNet-20 at batch size 128, with the trained and with the folded network."""
    x = torch.randn(128, 3, 32, 32, device=device)
    networks: dict[str, nn.Module] = {}
    for name in ("batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm"):
        networks[name] = models.classifier("resnet20", {}, methods.build(name, {}), 3, 10).to(device).eval()
        networks[f"{name}, folded"] = fold(networks[name])

    @torch.inference_mode()
    def evaluate(name: str) -> None:
        networks[name](x)

    times = take_turns({name: lambda name=name: evaluate(name) for name in networks}, rounds, device)
    print(f"\n{'evaluation of ResNet-20, batch 128':34}      ms   ratio")
    for name, value in times.items():
        print(f"{name:34} {value:7.1f} {value / times['batch_norm']:6.2f}x", flush=True)


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--format", default="contiguous", choices=["contiguous", "channels_last"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    devices.prepare(options.device)  # the settings of training
    torch.manual_seed(0)
    memory_format = torch.channels_last if options.format == "channels_last" else torch.contiguous_format
    peaks = None
    if options.device == "cpu":
        print(machine.description())
        peaks = floors.Peaks.measured([torch.float32])
        threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
        print(f"{threads} ({clock()}), float32, {options.format}, {options.rounds} rounds; {peaks}")
    else:
        print(f"{torch.cuda.get_device_name()}, {options.format}, torch {torch.__version__}, {options.rounds} rounds")
    table_of_layers(options.rounds, options.device, memory_format, peaks)
    share_of_penalty(options.rounds, options.device)
    table_of_inference(options.rounds, options.device)


if __name__ == "__main__":
    main()
