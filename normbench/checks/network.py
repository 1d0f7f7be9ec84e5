"""What a network must do: its layers, its loss and gradients, its state and its evaluation, on a few images."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import random
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normbench.checks.method import SCALARS
from normbench.checks.watch import Subject, Watch
from normbench.system import blame
from normbench.system.errors import UserError

COUNT = 4  # images in a batch
NAMED = 4  # parameters that a message names
SAME = 1e-6  # relative difference up to which the same computations count as equal
CLOSE = 1e-3  # the same for computations in another order, as for a batch of another size
SMALL_LR = 1e-3  # limit on learning rates, so that steps on noise do not diverge
# Layers that a model should ask its method for.
ASKED_FOR = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Linear)
ATTRIBUTES = frozenset(vars(nn.Module()))


def examine(subject: Subject) -> list[str]:
    """Builds a network, trains it for two steps and evaluates it; returns a line for each thing that is doubtful.

    Raises UserError for the first thing that is wrong: one line with the file and the line number, what is wrong, and
    what was expected. The global random generators are left as they were.
    """
    watch = Watch(subject)
    with (
        warnings.catch_warnings(action="ignore"),
        torch.random.fork_rng([]),
        other_generators_kept(),
        blame.in_one_line(subject.name, watch.located),
    ):
        return Examination(subject, watch).notes()


def listed(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class Examination:
    """The steps of `examine`, in their order."""

    def __init__(self, subject: Subject, watch: Watch):
        self.subject, self.watch, self.found = subject, watch, list[str]()
        self.moved: list[tuple[type, str]] = []  # classes with attributes that the first step changed

    def notes(self) -> list[str]:
        network = self.built()
        other = self.built_again(network)
        optimizer = self.optimizer(network)
        self.first_step(network, optimizer)
        self.stored_and_loaded(network, optimizer, other)
        self.evaluated(network, other)
        self.copied(network)
        self.device_problem(other)
        return self.found

    def fail(self, place: str | None, message: str) -> UserError:
        return self.watch.fail(place, message)

    def note(self, place: str, message: str) -> None:
        line = f"{place}: {message}"
        if line not in self.found:
            self.found.append(line)

    # --- building ---

    def built(self) -> nn.Module:
        """Builds the network; its layers and their attributes are in order."""
        subject, watch = self.subject, self.watch
        with self.seeded("building the network"):
            network = subject.build(watch.method)
        if not watch.layers:
            message = "the model asks its method for no layer, so that all methods would give the same network"
            raise self.fail(subject.model_place, f"{message}; use method.conv, method.norm and method.linear")
        registered = {id(part) for part in (*network.parameters(), *network.buffers(), *network.modules())}
        for module in network.modules() if "attributes" in watch.aspects else ():
            self.attributes(module, registered)
        for layer in watch.layers:
            if id(layer.module) not in registered and list(layer.module.parameters()):
                message = f"the {layer.hook} of {layer.call} is no part of the network that the model returned"
                raise self.fail(
                    subject.model_place, f"{message}; assign it to an attribute of a module, or use nn.ModuleList"
                )
        for name, parameter in network.named_parameters():
            if not parameter.isfinite().all():
                raise self.fail(self.owner(network, name), f"the initial values of {name} are not finite")
        if subject.own_model:
            self.other_layers(network)
        return network

    def other_layers(self, network: nn.Module) -> None:
        """Notes layers of a model that do not come from the method."""
        made = {id(part) for layer in self.watch.layers for part in layer.module.modules()}
        names = [
            f"{name} ({type(module).__name__})"
            for name, module in network.named_modules()
            if isinstance(module, ASKED_FOR) and id(module) not in made
        ]
        if names:
            self.note(
                self.subject.model_place, f"no method changes these layers, as no hook made them: {listed(names)}"
            )

    def attributes(self, module: nn.Module, registered: set[int]) -> None:
        """Refuses tensors, parameters and layers in plain attributes of a module, where torch does not find them.

        registered: the ids of all parameters, buffers and modules of the network.
        """
        kind = self.watch.own_class(module)
        if kind is None:
            return
        # torch's older weight_norm and spectral_norm keep the weight that they compute as a plain tensor.
        computed = {key.removesuffix(end) for key in module._parameters for end in ("_orig", "_g") if key.endswith(end)}
        for key, value in vars(module).items():
            if key in ATTRIBUTES or key in computed:
                continue
            for part, inside in _parts(value):
                if id(part) in registered:
                    continue
                what = f"{type(module).__name__}.{key} {'holds' if inside else 'is'}"
                if isinstance(part, nn.Module) and list(part.parameters()):
                    message = f"{what} layers that torch does not see, so they are neither trained nor stored"
                    raise self.fail(_assigned(kind, key), f"{message}; use nn.ModuleList")
                if isinstance(part, Tensor):
                    message = (
                        f"{what} a tensor that is neither parameter nor buffer: it is not trained, stored or moved"
                    )
                    right = "nn.Parameter if it is learned, register_buffer if not"
                    right = "nn.ParameterList" if inside and isinstance(part, nn.Parameter) else right
                    raise self.fail(_assigned(kind, key), f"{message}; use {right}")

    def built_again(self, network: nn.Module) -> nn.Module:
        """Builds a second network from the same seed; it equals the first and shares nothing with it."""
        other = self.subject.build(Watch(self.subject, self.watch.aspects).method)
        state = other.state_dict()
        for name, value in network.state_dict().items():
            if not isinstance(value, Tensor):
                continue
            if name not in state or value.shape != state[name].shape or not torch.equal(value, state[name]):
                message = f"two networks from one seed differ in {name}; draw from torch's global generator"
                raise self.fail(self.owner(network, name), message)
            if "sharing" in self.watch.aspects and value.numel() and value.data_ptr() == state[name].data_ptr():
                message = f"two networks share {name}; make it anew for each layer"
                raise self.fail(self.owner(network, name), message)
        return other

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Makes the optimizer, which holds every parameter."""
        optimizer = self.subject.optimizer(network, self.watch.method)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        lost = [name for name, p in network.named_parameters() if p.requires_grad and id(p) not in held]
        if lost:
            message = f"param_groups leaves out {listed(lost)}, which would never change; give `params` as lists of all"
            raise self.fail(self.watch.place("param_groups"), message)
        return _slow(optimizer)

    # --- training ---

    def first_step(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Trains on one batch; every layer and every gradient is in order."""
        subject = self.subject
        before, plain = set(network.state_dict()), self.plain(network)
        network.train()
        torch.manual_seed(0)
        with self.seeded("a training step"), self.watch.calls(network):
            loss = subject.loss(network, self.watch.method, subject.images(network, COUNT))
        changed = sorted(before ^ set(network.state_dict()))
        if changed:
            message = f"the first training step changes what is stored ({listed(changed)}); make all of it in __init__"
            raise self.fail(self.owner(network, changed[0]), message)
        if not loss.isfinite():
            raise self.fail(subject.place, f"the first loss is {loss.item()}; expected a finite number")
        if not loss.requires_grad:
            raise self.fail(subject.place, "the loss has no gradient, so that nothing would be learned")
        loss.backward()
        unused = []
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                unused.append(name)
            elif parameter.grad is not None and not parameter.grad.isfinite().all():
                raise self.fail(self.owner(network, name), f"the first gradient of {name} is not finite")
        if unused:
            self.note(self.owner(network, unused[0]), f"no gradient reaches {listed(unused)}: is it used?")
        optimizer.step()
        optimizer.zero_grad()
        self.moved = [place for place, value in self.plain(network).items() if value != plain.get(place, value)]

    def plain(self, network: nn.Module) -> dict[tuple[type, str], list[object]]:
        """The plain attributes of the examined modules by class and name: numbers and texts, and the ids of others."""
        found: dict[tuple[type, str], list[object]] = {}
        for module in network.modules():
            kind = self.watch.own_class(module)
            if kind is None:
                continue
            for key in sorted(set(vars(module)) - ATTRIBUTES):
                value = vars(module)[key]
                found.setdefault((kind, key), []).append(value if isinstance(value, SCALARS) else id(value))
        return found

    def stored_and_loaded(self, network: nn.Module, optimizer: torch.optim.Optimizer, other: nn.Module) -> None:
        """Stores network and optimizer as a checkpoint does, loads them into the other network, and trains both."""
        subject = self.subject
        file = io.BytesIO()
        with blame.in_one_line(f"storing and loading the network, {subject.name}", self.watch.located):
            torch.save([network.state_dict(), optimizer.state_dict()], file)
            file.seek(0)
            state, momentum = torch.load(file, weights_only=True)
            other.load_state_dict(state)
        resumed = _slow(subject.optimizer(other, subject.method))
        resumed.load_state_dict(momentum)
        some = f"{subject.last} image" + "s" * (subject.last > 1)
        losses = []
        for each, optim, watched in (
            (network, optimizer, self.watch.calls(network)),
            (other, resumed, contextlib.nullcontext()),
        ):
            torch.manual_seed(1)
            with blame.in_one_line(f"a last batch of {some}, {subject.name}", self.watch.located), watched:
                loss = subject.loss(each.train(), subject.method, subject.images(each, subject.last))
            loss.backward()
            optim.step()
            losses.append(loss.detach())
        if not _close(losses[0], losses[1]):
            self.differs("training", *(f"{loss.item():.6g}" for loss in losses))

    def differs(self, where: str, one: str = "", other: str = "") -> None:
        """Refuses a network that is not what was stored of it, at the attribute that may be the reason."""
        values = f" ({other} in place of {one})" if one else ""
        message = f"stored and loaded, the network gives other results in {where}{values}"
        if self.moved:
            kind, key = self.moved[0]
            right = f"{kind.__name__}.{key} changes in training; register it as a buffer"
            raise self.fail(_assigned(kind, key), f"{message}: {right}")
        right = "it depends on what is neither parameter nor buffer, or on random numbers that no run seeds"
        raise self.fail(self.subject.place, f"{message}: {right}")

    # --- evaluation ---

    @torch.no_grad()
    def evaluated(self, network: nn.Module, other: nn.Module) -> None:
        """Evaluates both networks: it changes nothing, and depends on stored values and on each image alone."""
        subject = self.subject
        network.eval(), other.eval()
        before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        x = subject.images(network, COUNT)
        with self.seeded("evaluation"), self.watch.calls(network), subject.context():
            network(x)
        torch.manual_seed(2)
        first = network(x)
        for name, value in network.state_dict().items():
            if isinstance(value, Tensor) and not torch.equal(value, before[name]):
                message = f"evaluation changes {name}; change it only if self.training"
                raise self.fail(self.owner(network, name), message)
        torch.manual_seed(3)
        if not _close(first, network(x)):
            self.note(subject.place, "evaluation draws random numbers: the same images give other outputs each time")
        elif not _close(first, other(x)):
            self.differs("evaluation")
        elif not _close(first[:1], network(x[:1]), CLOSE):
            message = "in evaluation, the output for an image depends on the other images of its batch"
            self.note(subject.place, message)
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            output = network(x)
            if output.requires_grad:
                output.sum().backward()
            if x.grad is None:
                message = "the images get no gradient in evaluation, which attacks, some scores and generators need"
                self.note(subject.place, message)

    def copied(self, network: nn.Module) -> None:
        """Notes a network that cannot be copied, as some scores do."""
        try:
            copy.deepcopy(network)
        except Exception as error:  # The modules may be anybody's.
            where = blame.place(error, self.subject.files) or self.subject.place
            text = blame.one_line(error).split(". ")[0][:100]
            self.note(where, f"the network cannot be copied after a gradient was computed, as some scores do: {text}")

    @torch.no_grad()
    def device_problem(self, network: nn.Module) -> str | None:
        """Refuses tensors that a forward pass makes on the CPU, whatever the device of its input is.

        Returns why this cannot be tried, as the device `meta` lacks some operations, or None. It moves the network.
        """
        x = self.subject.images(network, COUNT)
        try:
            with _without_autocast():  # which does not know this device
                network.eval().to("meta")(x.to("meta"))
        except Exception as error:  # Only its word on devices counts.
            if "on the expected device" not in str(error):
                return blame.one_line(error)
            where = blame.place(error, self.subject.files) or self.subject.place
            message = "a tensor is made on the CPU, which fails on a GPU; make it with device=x.device, or in a buffer"
            raise self.fail(where, message) from error
        return None

    # --- places and conditions ---

    @contextlib.contextmanager
    def seeded(self, what: str) -> Iterator[None]:
        """Refuses random numbers from generators that no run seeds, and changes of torch's settings."""
        before = random.getstate(), _numpy_state()
        with blame.torch_settings_kept() as changed:
            yield
            other = changed()
        if other:
            message = f"{what} changes torch's default type, device or gradient mode, for everything that follows"
            raise self.fail(self.subject.place, message)
        if (random.getstate(), _numpy_state()) != before:
            name = "Python's" if random.getstate() != before[0] else "numpy's"
            message = f"{what} draws from {name} global generator, which no run seeds; draw from torch's"
            raise self.fail(self.subject.place, message)

    def owner(self, network: nn.Module, name: str) -> str:
        """Where the class of the module that has a parameter or buffer is defined, or the hook that made it."""
        path = name.split(".")[:-1]
        modules = [network, *(network.get_submodule(".".join(path[: end + 1])) for end in range(len(path)))]
        made = {id(layer.module): layer for layer in self.watch.layers}
        for module in reversed(modules):
            kind = self.watch.own_class(module)
            if kind is not None:
                return blame.definition(kind) or self.subject.place
            if id(module) in made and (made[id(module)].own or not self.subject.own_model):
                return made[id(module)].place
        return self.subject.place


def _parts(value: Any) -> Iterator[tuple[object, bool]]:
    """Yields the tensors and modules in a value, and whether they are inside of a list, tuple, set or dict."""
    if isinstance(value, Tensor | nn.Module):
        yield value, False
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    for each in inner:
        yield from ((part, True) for part, _ in _parts(each))


def _assigned(kind: type, key: str) -> str | None:
    """The line of `self.key = ...` in a class, or the class."""
    with contextlib.suppress(OSError, TypeError):
        lines, first = inspect.getsourcelines(kind)
        for number, text in enumerate(lines, first):
            if re.search(rf"self\.{key}\b[^=]*=", text):
                return blame.shown(inspect.getsourcefile(kind) or "", number)
    return blame.definition(kind)


def _slow(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["lr"] = min(group["lr"], SMALL_LR)
    return optimizer


def _close(one: Tensor, other: Tensor, tolerance: float = SAME) -> bool:
    one, other = one.float(), other.float()
    scale = one.abs().max().item()
    return torch.allclose(
        one, other, rtol=tolerance, atol=tolerance * (scale if scale < float("inf") else 1), equal_nan=True
    )


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """Lets `torch.autocast` do nothing."""
    off, kept = contextlib.nullcontext(), (torch.autocast, torch.amp.autocast, torch.is_autocast_enabled)
    module: Any = torch
    try:
        module.autocast = module.amp.autocast = lambda *_, **__: off
        module.is_autocast_enabled = lambda *_: False
        yield
    finally:
        module.autocast, module.amp.autocast, module.is_autocast_enabled = kept


def _numpy_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), state["pos"]


@contextlib.contextmanager
def other_generators_kept() -> Iterator[None]:
    """Restores the global random generators of Python and numpy at the end."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
