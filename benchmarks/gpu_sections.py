"""What `benchmarks.gpu` shows, section by section. Each is a generator of rows, so that what was found is not lost.

A row is a dictionary for JSON. `problems` in it is a list of lines about what does not hold; a row without it, or with
an empty list, is as it should be. Every section also runs on a CPU, where it shows that the section itself works.
"""

from __future__ import annotations

import copy
import functools
import io
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.turns import seconds
from normbench.data.batches import Images
from normbench.evaluation import fold
from normbench.functional import placement
from normbench.functional.constants import unchanging
from normbench.gan import loop as gan_loop
from normbench.gan.recipe import GanRecipe
from normbench.methods import registry as methods
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.network_deconvolution import DeconvConv2d
from normbench.models.build import build_classifier, build_gan
from normbench.spectral import conv_bound, exact_norm, fantastic_four, gram_bound, zero_padded_norm
from normbench.system import device as devices
from normbench.system import memory
from normbench.system.schema import MemoryFormat, Precision
from normbench.training.attacks import pgd
from normbench.training.keeper import Nobody
from normbench.training.logits import logits
from normbench.training.loop import Training
from normbench.training.optimization import optimizer, step_loss
from normbench.training.recipe import Recipe

Row = dict[str, Any]
BASE = "batch_norm"
FORMATS: tuple[MemoryFormat, ...] = get_args(MemoryFormat)
# How many times as far from float64 as the CPU's results in the same precision the device's may be; how far in any
# case, as a sum in another order is no error, and in a network one ReLU that another rounding switches changes the
# gradients in the third digit; and the floor of `apart`, because bfloat16 leaves small gradients with few digits.
BOUNDS = {
    ("layer", "float32"): (10.0, 1e-4, 0.1),
    ("network", "float32"): (10.0, 5e-3, 0.1),
    ("layer", "bfloat16"): (3.0, 2e-2, 1.0),
    ("network", "bfloat16"): (3.0, 5e-2, 1.0),
}


@dataclass(frozen=True)
class Setting:
    """What to measure. device: `cuda` or `cpu`. small: sizes that are only there to try the script. names: methods."""

    device: str
    small: bool
    names: tuple[str, ...]

    @property
    def precisions(self) -> list[Precision]:
        """The precisions that the device computes."""
        able = {"tf32": devices.has_tf32(self.device), "bfloat16": devices.has_bfloat16(self.device)}
        return [each for each in get_args(Precision) if able.get(each, True)]

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def each_method(setting: Setting, measure: Callable[[str], Row]) -> Iterator[Row]:
    """Yields a row for each method. One that raises an error has a row that says so, and does not stop the others."""
    for name in setting.names:
        try:
            yield {"method": name, **measure(name)}
        except Exception as error:
            yield {"method": name, "problems": [in_one_line(error)]}


def in_one_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- Agreement with the CPU ------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A convolution of a method, its norm and a classifier, which the methods take for a network."""

    def __init__(self, method: Method, channels: int):
        super().__init__()
        role = Role("body", stage=1, architecture="resnet")
        self.conv = method.conv(ConvSpec(channels, channels, 3, role, padding=1))
        self.norm = method.norm(channels, role=role)
        self.head = method.linear(channels, 10, role=Role("head", architecture="resnet"))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def layer(method: Method, channels: int) -> nn.Module:
    """A `Layer` as a method initializes it, with the same weights each time."""
    torch.manual_seed(0)
    built = Layer(method, channels)
    method.initialize(built)
    return nudged(built)


@torch.no_grad()
def nudged(model: nn.Module) -> nn.Module:
    """The network after a small change of all parameters, so that those which start as zero matter too."""
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    return model


def trained(model: nn.Module, method: Method, x: Tensor, y: Tensor, recipe: Recipe, steps: int) -> dict[str, Tensor]:
    """The logits and gradients of a first step, and the state after some steps, each on the CPU in float64."""
    model.train()
    x = x.clone(memory_format=placement.FORMATS[recipe.memory_format]).requires_grad_()
    optim, found = optimizer(model, method, recipe), dict[str, Tensor]()
    outputs: list[Tensor] = []

    def forward(given: Tensor) -> Tensor:
        outputs.append(model(given))
        return outputs[-1]

    for step in range(steps):
        loss, _ = step_loss(forward, model, method, x, y, recipe)
        optim.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            found["logits"] = outputs[0]
            for name, each in [("images", x), *model.named_parameters()]:
                if each.grad is not None:
                    found[f"gradient of {name}"] = each.grad.clone()
        optim.step()
    found |= {f"{name} after {steps} steps": each for name, each in model.state_dict().items() if tensor(each)}
    return {name: each.detach().cpu().double() for name, each in found.items()}


def tensor(value: Any) -> bool:
    """Whether an entry of a state is a tensor of real numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def apart(found: dict[str, Tensor], exact: dict[str, Tensor], floor: float) -> tuple[float, str]:
    """The largest distance between results, relative to the expected norm, and its name.

    floor: what is smaller than this share of the largest result of its kind, such as a gradient that is zero but for
    rounding, is compared with that share.
    """

    def kind(name: str) -> str:
        return "gradient" if name.startswith("gradient") else name.rpartition(" after ")[2]

    largest: dict[str, float] = {}
    for name, value in exact.items():
        largest[kind(name)] = max(largest.get(kind(name), 0), value.norm().item())
    worst = (0.0, "nothing")
    for name, value in exact.items():
        error = (found[name] - value).norm().item() / max(value.norm().item(), floor * largest[kind(name)], 1e-30)
        worst = max(worst, (error if error == error else float("inf"), name))  # NaN is near to nothing
    return worst


def agreement(setting: Setting) -> Iterator[Row]:
    """A layer and a network of each method on the device against the CPU: forward, gradients, and three steps."""
    channels, size, width, count = (4, 6, 2, 4) if setting.small else (32, 16, 16, 32)
    chance = torch.Generator().manual_seed(0)
    vector = torch.randn(count, channels, size, size, generator=chance, dtype=torch.float64)
    images = torch.randn(count, 3, size, size, generator=chance, dtype=torch.float64)
    y = torch.randint(10, (count,), generator=chance)

    def measure(name: str) -> Row:
        method = methods.build(name, {})
        subjects: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
            "layer": (lambda: layer(method, channels), vector),
            "network": (lambda: nudged(build_classifier("resnet8", {"width": width}, method, 3, 10, seed=0)), images),
        }
        row: Row = {"problems": []}
        for kind, (build, x) in subjects.items():
            for memory_format in FORMATS:
                recipe = Recipe(epochs=1, lr=1e-2, memory_format=memory_format)
                devices.prepare("cpu")
                exact = trained(build().double(), method, x, y, recipe, 3)
                for precision in ("float32", "bfloat16"):
                    key = f"{kind} {precision}"
                    if precision not in setting.precisions and not setting.small:
                        continue
                    times, always, floor = BOUNDS[kind, precision]
                    recipe = Recipe(epochs=1, lr=1e-2, memory_format=memory_format, precision=precision)
                    errors = []
                    for device in ("cpu", setting.device):
                        devices.prepare(device, "float32")
                        model = placement.placed(build(), device, memory_format)
                        found = trained(model, method, x.float().to(device), y.to(device), recipe, 3)
                        errors.append(apart(found, exact, floor))
                    (of_cpu, _), (error, where) = errors
                    row[key] = max(row.get(key, 0), error)
                    if error > max(times * of_cpu, always):
                        row["problems"].append(
                            f"{key}, {memory_format}: {where} is {error:.1e} off, on the CPU {of_cpu:.1e}"
                        )
        return row

    yield from each_method(setting, measure)
    yield from whitening(setting)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vgg11": {"width": 8},
    "senet18": {"width": 8},
    "preact_resnet18": {"width": 8},
    "mobilenet_v2": {"width": 8},
    "resnext29_32x4d": {"width": 32},
    "densenet100": {"growth": 4},
}
# As `BOUNDS`, for logits and for gradients: in deep networks, other roundings switch many a ReLU.
DEEP = {"logits": (10.0, 1e-3), "gradients": (10.0, 0.1)}


def architectures(setting: Setting) -> Iterator[Row]:
    """Logits and gradients of a first step of each method in narrow networks of the other architectures, in float32."""
    models = dict(list(ARCHITECTURES.items())[: 1 if setting.small else None])
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 32, 32, generator=chance, dtype=torch.float64)
    y = torch.randint(10, (8,), generator=chance)
    recipe = Recipe(epochs=1, lr=1e-2)

    def measure(name: str) -> Row:
        method, row = methods.build(name, {}), Row(problems=[])
        for model, options in models.items():
            try:
                network = nudged(build_classifier(model, options, method, 3, 10, seed=0))
                devices.prepare("cpu")
                exact = trained(copy.deepcopy(network).double(), method, x, y, recipe, 1)
                results = []
                for device in ("cpu", setting.device):
                    devices.prepare(device, "float32")
                    placed = placement.placed(copy.deepcopy(network), device)
                    results.append(trained(placed, method, x.float().to(device), y.to(device), recipe, 1))
                for what, (times, always) in DEEP.items():
                    part = {key: value for key, value in exact.items() if key.startswith(what.removesuffix("s"))}
                    (of_cpu, _), (error, where) = (apart(each, part, 0.1) for each in results)
                    row[what] = max(row.get(what, 0), error)
                    if error > max(times * of_cpu, always):
                        row["problems"].append(f"{model}: {where} is {error:.1e} off, on the CPU {of_cpu:.1e}")
            except Exception as error:
                row["problems"].append(f"{model}: {in_one_line(error)}")
        return row

    yield from each_method(setting, measure)


def whitening(setting: Setting) -> Iterator[Row]:
    """The running whitening matrix after a step, while products may be rounded to TF32.

    It is compared with the CPU's in float64. The more iterations, the more of the rounding it amplifies, on any device.
    """
    channels, size = (4, 8) if setting.small else (32, 16)
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(16, channels, size, size, generator=chance, dtype=torch.float64).cumsum(2).cumsum(3)
    for iterations in (5, 10, 15):
        found = []
        for device, dtype in (("cpu", torch.float64), ("cpu", torch.float32), (setting.device, torch.float32)):
            devices.prepare(device, "tf32" if device == "cuda" and "tf32" in setting.precisions else "float32")
            torch.manual_seed(0)
            conv = DeconvConv2d(channels, channels, 3, padding=1, iterations=iterations, momentum=1.0)
            conv = conv.to(device, dtype).train()
            conv(x.to(device, dtype))
            found.append(conv.running_deconv.cpu().double())
        exact, *others = found
        of_cpu, error = (((other - exact).norm() / exact.norm()).item() for other in others)
        problems = [] if error <= max(10 * of_cpu, 1e-4) else [f"whitening is {error:.1e} off, on the CPU {of_cpu:.1e}"]
        yield {"whitening": iterations, "error": error, "error of the CPU": of_cpu, "problems": problems}


def evaluation(setting: Setting) -> Iterator[Row]:
    """Predictions, the folded network and PGD of each method against the CPU; then the spectral norms, with times."""
    size, width, count = (8, 2, 6) if setting.small else (32, 16, 256)
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=chance)
    labels = torch.randint(10, (count,), generator=chance)

    def measure(name: str) -> Row:
        model = nudged(build_classifier("resnet8", {"width": width}, methods.build(name, {}), 3, 10, seed=0))
        model(torch.randn(32, 3, size, size, generator=chance))  # running statistics
        found: dict[str, dict[str, Tensor]] = {}
        for device in ("cpu", setting.device):
            devices.prepare(device, "float32")
            placed = placement.placed(copy.deepcopy(model), device).eval().requires_grad_(False)
            images = on(device, pixels, labels).made_for(placed)
            given = (pixels.float() / 255).to(device)

            def classifier(values: Tensor, placed: nn.Module = placed, images: Images = images) -> Tensor:
                x = (values - images.mean) / images.std
                return placed(x.contiguous(memory_format=images.memory_format))

            with unchanging(placed):
                found[device] = {"predictions": logits(placed, images, images.pixels, "float32")}
            found[device] |= {"folded": logits(fold(placed), images, images.pixels, "float32")}
            moved = pgd(classifier, given, labels.to(device), 8 / 255, 2 / 255, 1, 1, torch.Generator().manual_seed(0))
            found[device] |= {"attacked": moved.cpu()}
        row: Row = {"problems": []}
        for key in ("predictions", "folded"):
            a, b = (found[device][key].double() for device in (setting.device, "cpu"))
            row[key] = ((a - b).norm() / b.norm()).item()
            if not row[key] <= 1e-4:
                row["problems"].append(f"{key} are {row[key]:.1e} off")
        moved = (found[setting.device]["attacked"] - found["cpu"]["attacked"]).abs() > 1 / 255
        row["attacked"] = moved.double().mean().item()
        if not row["attacked"] <= 1e-2:
            row["problems"].append(f"an attack moves {100 * row['attacked']:.1f} % of the pixels elsewhere")
        return row

    yield from each_method(setting, measure)
    weight = torch.randn(*((8, 4) if setting.small else (256, 128)), 3, 3, generator=chance)
    norms: dict[str, Callable[[Tensor], Tensor]] = {
        "conv_bound": lambda w: conv_bound(w, 2),
        "exact_norm": lambda w: exact_norm(w, 16),
        "gram_bound": lambda w: gram_bound(w, 16),
        "fantastic_four": fantastic_four,
        "zero_padded_norm": lambda w: zero_padded_norm(w, 16),
    }
    for name, function in norms.items():
        there = weight.to(setting.device)
        found_norm, expected = function(there).item(), function(weight).item()
        spent, of_cpu = (1000 * seconds(functools.partial(function, w), w.device.type) for w in (there, weight))
        error = abs(found_norm / expected - 1)
        problems = [] if error <= 1e-5 else [f"{name} is {error:.1e} off"]
        yield {"norm": name, "error": error, "ms": spent, "ms on the CPU": of_cpu, "problems": problems}


# --- A training step -------------------------------------------------------------------------------------------------


def on(device: str, pixels: Tensor, labels: Tensor) -> Images:
    """Images on a device, normalized with a mean of 0.5 and a deviation of 0.25."""
    mean, std = (torch.full((pixels.shape[1], 1, 1), value, device=device) for value in (0.5, 0.25))
    return Images(pixels.to(device), labels.to(device), mean, std)


def training(setting: Setting, name: str, recipe: Recipe, model: str, options: dict[str, Any]) -> Training:
    """The training of a network on one batch of random images of CIFAR-10's size, on the device as a run has it."""
    devices.prepare(setting.device, recipe.precision, recipe.deterministic)
    method = methods.build(name, {})
    network = build_classifier(model, options, method, 3, 10, seed=0)
    network = placement.placed(network, setting.device, recipe.memory_format).train()
    chance, size = torch.Generator().manual_seed(0), 8 if setting.small else 32
    pixels = torch.randint(256, (recipe.batch_size, 3, size, size), dtype=torch.uint8, generator=chance)
    labels = torch.randint(10, (recipe.batch_size,), generator=chance)
    images = on(setting.device, pixels, labels).made_for(network, recipe.memory_format)
    return Training(network, method, images, recipe, 0, lambda *_: None, Nobody())


def step(given: Training) -> None:
    """One training step, as in the training of a run."""
    given.meter.reset()
    given.train_on(0, 0, given.images.pixels, given.images.labels)


def recipe_of(setting: Setting, **changes: Any) -> Recipe:
    """A recipe whose learning rate stays what it is, with batches of 128 images."""
    return Recipe(epochs=10**6, lr=1e-3, batch_size=8 if setting.small else 128, **changes)


def large(setting: Setting) -> tuple[str, dict[str, Any]]:
    """The network whose speed is measured: ResNet-18, or a small one to try the script."""
    return ("resnet8", {"width": 2}) if setting.small else ("resnet18", {})


def waits_in(work: Callable[[], object], device: str) -> list[str] | None:
    """The lines at which the host waited for the GPU during a call; None for a CPU."""
    if device != "cuda":
        work()
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [each for each in caught if "synchronizing CUDA operation" in str(each.message)]
    return [f"{Path(each.filename).name}:{each.lineno}" for each in found]


def launches_in(work: Callable[[], object], device: str) -> int:
    """The kernels and copies that a call puts into the GPU's queue; on a CPU the operations that it calls."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activity, kind = (
        (ProfilerActivity.CUDA, DeviceType.CUDA) if device == "cuda" else (ProfilerActivity.CPU, DeviceType.CPU)
    )
    with profile(activities=[activity]) as found:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    return sum(e.device_type == kind and not getattr(e, "is_user_annotation", False) for e in found.events())


def waits(setting: Setting) -> Iterator[Row]:
    """Where the host waits for the GPU in a training step of each method, after three that do not count."""

    def measure(name: str) -> Row:
        given = training(setting, name, recipe_of(setting), *large(setting))
        for _ in range(3):
            step(given)
        found = waits_in(lambda: step(given), setting.device)
        return {"waits": found, "problems": [f"the host waits in a step, at {', '.join(found)}"] if found else []}

    yield from each_method(setting, measure)


def speed(setting: Setting) -> Iterator[Row]:
    """Images per second, launches and peak memory of a training step of each method, in each precision."""
    least, rounds = (0.0, 1) if setting.small else (0.15, 5)
    for precision in setting.precisions:
        recipe, cases = recipe_of(setting, precision=precision), dict[str, Training]()
        for name in dict.fromkeys((BASE, *setting.names)):
            try:
                given = training(setting, name, recipe, *large(setting))
                for _ in range(5):
                    step(given)
                cases[name] = given
            except Exception as error:
                yield {"method": name, "precision": precision, "problems": [in_one_line(error)]}
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, given in cases.items():  # in turns, so that the GPU's clock is the same for all
                setting.synchronize()
                start, done = time.perf_counter(), 0
                while done == 0 or time.perf_counter() - start < least:
                    for _ in range(1 if setting.small else 5):
                        step(given)
                        done += 1
                    setting.synchronize()
                times[name].append((time.perf_counter() - start) / done)
        base: dict[str, float] = {}
        for name, given in cases.items():
            work = functools.partial(step, given)
            costs = {"time": statistics.median(times[name]), "launched": launches_in(work, setting.device)}
            costs["memory"] = memory.step_memory(given.model, work, setting.device)
            base = costs if name == BASE else base
            row: Row = {"method": name, "precision": precision, "images/s": recipe.batch_size / costs["time"]}
            row |= {"MiB": costs["memory"] / 2**20, "launches": costs["launched"]}
            # There is no ratio without batch norm, or if a profiler that may not look at the GPU counts nothing.
            yield row | {key: value / base[key] if base.get(key) else None for key, value in costs.items()}


def compiled(setting: Setting) -> Iterator[Row]:
    """Images per second of ResNet-18 in bfloat16 with `compile: reduce-overhead`, which uses CUDA graphs."""

    def measure(name: str) -> Row:
        precision = "bfloat16" if "bfloat16" in setting.precisions else "float32"
        mode = "default" if setting.small else "reduce-overhead"
        rates = []
        for chosen in (None, mode):
            recipe = recipe_of(setting, precision=precision, compile=chosen, crop_padding=0)
            given = training(setting, name, recipe, *large(setting))
            began = time.perf_counter()
            given.compile()
            compiling = time.perf_counter() - began
            for _ in range(5):
                step(given)
            setting.synchronize()
            start, count = time.perf_counter(), 2 if setting.small else 40
            for _ in range(count):
                step(given)
            setting.synchronize()
            rates.append(count * recipe.batch_size / (time.perf_counter() - start))
        left_out = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        problems = [f"{left_out} graphs are not recorded as CUDA graphs"] if left_out else []
        row = {"images/s": rates[1], "gain": rates[1] / rates[0], "seconds to compile": compiling}
        return {**row, "problems": problems}

    yield from each_method(setting, measure)


# --- The same again --------------------------------------------------------------------------------------------------


def determinism(setting: Setting) -> Iterator[Row]:
    """Whether two trainings of a few steps give the same bits, without and with `deterministic: true`, and its cost."""
    steps = 2 if setting.small else 20

    def run(name: str, deterministic: bool) -> tuple[dict[str, Any], float]:
        given = training(setting, name, recipe_of(setting, deterministic=deterministic), "resnet8", {"width": 4})
        step(given)

        def go_on() -> None:
            for _ in range(steps):
                step(given)

        spent = seconds(go_on, setting.device)
        state = {key: value.cpu() for key, value in given.model.state_dict().items() if isinstance(value, Tensor)}
        return state, spent

    def measure(name: str) -> Row:
        row: Row = {"problems": []}
        times = {}
        for deterministic in (False, True):
            (one, _), (other, times[deterministic]) = (run(name, deterministic) for _ in range(2))
            same = all(torch.equal(one[key], other[key]) for key in one)
            row["deterministic" if deterministic else "as it is"] = same
        row["cost"] = times[True] / times[False]
        if not row["deterministic"]:
            row["problems"].append("deterministic: true does not give the same bits")
        return row

    try:
        yield from each_method(setting, measure)
    finally:
        devices.prepare(setting.device)


class Memory:
    """A keeper that has a saved state as a file would have it: on the CPU, through torch's format."""

    spent = 0.0

    def __init__(self) -> None:
        self.saved: bytes | None = None

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.saved = buffer.getvalue()

    def resume(self) -> dict[str, Any] | None:
        return None if self.saved is None else torch.load(io.BytesIO(self.saved), "cpu", weights_only=True)


def resume(setting: Setting) -> Iterator[Row]:
    """Trainings whose checkpoint is resumed in the other memory format, against trainings that were not stopped."""

    def measure(name: str) -> Row:
        worst = 0.0
        for before, after in (FORMATS, FORMATS[::-1]):
            first, second = (
                training(setting, name, recipe_of(setting, memory_format=each), "resnet8", {"width": 4})
                for each in (before, after)
            )
            first.keeper = second.keeper = Memory()
            step(first)
            first.save(0, 0)
            second.resume()
            for given in (first, second):
                for _ in range(2):
                    step(given)
            state = first.model.state_dict()
            for key, value in second.model.state_dict().items():
                if tensor(value):
                    gap = (value - state[key]).double().norm() / state[key].double().norm().clamp_min(1e-3)
                    worst = max(worst, gap.item())
        return {"error": worst, "problems": [] if worst <= 1e-3 else [f"{worst:.1e} off after a resume"]}

    yield from each_method(setting, measure)


def gan(setting: Setting) -> Iterator[Row]:
    """An iteration of a GAN with each method: its time, where the host waits, and its losses against the CPU's."""
    size, width, count = (8, 4, 8) if setting.small else (32, 32, 64)
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4 * count, 3, size, size), dtype=torch.uint8, generator=chance)
    recipe = GanRecipe(iterations=1000, batch_size=count)

    def start(name: str, device: str) -> Callable[[int], Tensor]:
        devices.prepare(device, "float32")
        method = methods.build(name, {})
        networks = build_gan("sngan", {"width": width}, method, 3, size, recipe.latent, seed=0)
        placed = [placement.placed(network, device).train() for network in networks]
        images = on(device, pixels, torch.zeros(len(pixels), dtype=torch.long)).made_for(placed[1])
        setting_of_gan = gan_loop.Setting(method, recipe, 0)
        given = gan_loop.Training(placed[0], placed[1], images, setting_of_gan, lambda *_: None, Nobody())
        real = gan_loop.real_batches(images, count, 0)
        return lambda number: given.train_on(real, number)

    def measure(name: str) -> Row:
        here, there = start(name, "cpu"), start(name, setting.device)  # which leaves torch set up for the device
        losses = [torch.stack([each(number).cpu() for number in range(2)]) for each in (there, here)]
        error = ((losses[0] - losses[1]).norm() / losses[1].norm()).item()
        found = waits_in(lambda: [there(number) for number in range(2, 6)], setting.device)  # the fifth begins an epoch
        count = 2 if setting.small else 20
        spent = seconds(lambda: [there(number) for number in range(6, 6 + count)], setting.device) / count
        problems = [] if error <= 1e-3 else [f"the losses of a GAN are {error:.1e} off"]
        problems += [f"the host waits in an iteration of a GAN, at {', '.join(found)}"] if found else []
        return {"ms": 1000 * spent, "error": error, "waits": found, "problems": problems}

    yield from each_method(setting, measure)


# --- Several processes -----------------------------------------------------------------------------------------------


def worker(setting: Setting, all_ready: Any, spent: float, rates: Any) -> None:
    """The main function of one of several processes: trains for some seconds and sends its images per second."""
    recipe = recipe_of(setting)
    given = training(setting, BASE, recipe, "resnet8" if setting.small else "resnet20", {})
    for _ in range(5):
        step(given)
    setting.synchronize()
    all_ready.wait(120)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < spent:
        for _ in range(10):
            step(given)
        setting.synchronize()
        done += 10
    rates.put(done * recipe.batch_size / (time.perf_counter() - start))


def processes(setting: Setting) -> Iterator[Row]:
    """Images per second of K processes that train a ResNet-20 at a time on the device, together."""
    context, alone = multiprocessing.get_context("spawn"), None
    for count in (1, 2) if setting.small else (1, 2, 4):
        all_ready, rates = context.Barrier(count), context.Queue()
        arguments = (setting, all_ready, 0.1 if setting.small else 4.0, rates)
        workers = [context.Process(target=worker, args=arguments, daemon=True) for _ in range(count)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        failed = [each.exitcode for each in workers if each.exitcode]
        if failed:
            yield {"processes": count, "problems": [f"{len(failed)} of {count} processes end with {failed[0]}"]}
            continue
        total = sum(rates.get(timeout=10) for _ in workers)
        alone = alone or total
        yield {"processes": count, "images/s": total, "gain": total / alone}
