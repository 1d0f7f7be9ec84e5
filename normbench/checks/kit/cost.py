"""What a method costs beside plain convolutions with batch norm, and whether torch.compile takes it whole."""

from __future__ import annotations

import copy
import dataclasses
import logging
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from normbench.checks.kit.case import Case, Fail, Warn, difference, kinds_of_layers
from normbench.methods.base import Method
from normbench.system import blame, memory

IMAGES, TIMED = 32, 10  # images in a batch whose training steps are timed, and how many of these
LONGEST = 120  # characters of a reason for a graph break
COMPILED = 1e-3  # relative difference between the compiled and the plain network


def compiling(case: Case) -> str:
    """torch.compile takes the training forward pass as one graph, and this computes the same.

    What it takes is counted by a compiler that compiles nothing. In haste it is given one layer of each kind.
    """
    import torch._dynamo as dynamo  # imported here because it takes seconds
    from torch._dynamo.utils import counters

    for name, network, x in _compiled(case):
        expected = copy.deepcopy(network)(x).detach()
        graphs = list[object]()

        def count(graph: torch.fx.GraphModule, _: object, graphs: list[object] = graphs) -> Callable:
            graphs.append(graph)
            return graph.forward

        dynamo.reset()
        counters.clear()
        logger = logging.getLogger("torch._dynamo")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # which would print what is said here in one line
        try:
            with dynamo.config.patch(wrap_top_frame=True):  # as normbench.training.compilation sets it
                found = difference(expected, torch.compile(network, backend=count)(x).detach())
        except Exception as error:  # The layers may be anybody's.
            advice = "leave `compile` out of recipes, or avoid what the compiler does not know"
            raise Warn(f"{name}: torch.compile fails: {blame.one_line(error)}", advice) from error
        finally:
            logger.setLevel(level)
            reasons = [" ".join(str(reason).split())[:LONGEST] for reason in counters["graph_break"]]
            dynamo.reset()
        if not found < COMPILED:
            raise Fail(f"{name}: compiled, its outputs differ by {found:.2g}", "let no Python value change in forward")
        if reasons or len(graphs) > 1:
            seen = f"{name}: {len(graphs)} graphs in place of one{f', as {reasons[0]}' if reasons else ''}"
            raise Warn(seen, "avoid .item(), printing, and Python branches on values of tensors")
    return "one graph without breaks"


def _compiled(case: Case) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """What is compiled, with its input: the network, or in haste the first layer of each kind."""
    if case.quick:
        for layer, x in kinds_of_layers(case):
            yield f"{type(layer.module).__name__}, a {layer.hook}", layer.module.train(), x
    else:
        yield "the network", case.network(), case.images()


def speed(case: Case) -> str:
    """The time of a training step as a multiple of that with Conv2d and BatchNorm2d, measured in turns."""
    steps = [_step(each, each.network()) for each in (case, _plain(case))]
    times: list[list[float]] = [[], []]
    for number in range(TIMED // 2 if case.quick else TIMED):
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            taken += [time.perf_counter() - start] if number else []  # the first steps warm up
    ratio = statistics.median(times[0]) / statistics.median(times[1])
    return f"a training step takes {ratio:.2g} times as long as with Conv2d and BatchNorm2d"


def memory_use(case: Case) -> str:
    """The peak memory of a training step as a multiple of that with Conv2d and BatchNorm2d."""
    needed = []
    for each in (case, _plain(case)):
        network = each.network()
        needed.append(memory.step_memory(network, _step(each, network), "cpu"))
    return f"a training step needs {needed[0] / needed[1]:.2f} times the memory of Conv2d and BatchNorm2d"


def _plain(case: Case) -> Case:
    """The same network with plain convolutions and batch norm."""
    return dataclasses.replace(case, method=Method())


def _step(case: Case, network: nn.Module) -> Callable[[], None]:
    """A training step of a network on a batch."""
    optimizer, x = case.optimizer(network), case.images(IMAGES)

    def step() -> None:
        case.step(network, optimizer, x)

    return step
