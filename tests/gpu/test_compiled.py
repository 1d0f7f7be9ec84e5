"""The networks of all methods under torch.compile, as for a GPU: one graph, which CUDA graphs can record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config

from normbench.functional.placement import placed
from normbench.methods import registry
from normbench.methods.network_deconvolution import DeconvConv2d
from normbench.training.compilation import CountsSteps
from tests.support.dispatch import Operations
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.short_models import CHANNELS, short_classifier

REASON = obstacle()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]


@pytest.fixture(autouse=True)
def _compiler() -> Iterator[None]:
    """With the setting of `normbench.training.compilation`, and without what other tests have compiled."""
    torch._dynamo.reset()
    with config.patch(wrap_top_frame=True):
        yield
    torch._dynamo.reset()


class Graphs:
    """A backend of torch.compile that keeps the graphs, runs them as they are, and notes the operations of the last."""

    def __init__(self) -> None:
        self.found: list[torch.fx.GraphModule] = []
        self.done = Operations()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        def run(*given: Any) -> Any:
            self.done = Operations()
            with self.done:
                return graph.forward(*given)

        self.found.append(graph)
        return run

    def compiled(self, network: nn.Module) -> Any:
        """The whole network as one graph; a graph that is compiled again, or a part left out, is an error or counts."""
        return torch.compile(network, fullgraph=True, dynamic=False, backend=self)


def recordable(graph: torch.fx.GraphModule) -> None:
    """A graph has no tensor of the CPU, and no number among its inputs, for each of which it would be recorded anew."""
    for node in graph.graph.nodes:
        value = node.meta.get("example_value")
        values = value if isinstance(value, tuple | list) else [value]
        assert all(each.is_cuda for each in values if isinstance(each, Tensor)), node
        assert node.op != "placeholder" or isinstance(value, Tensor), node


def step(run: Any, training: bool) -> None:
    """A forward pass, and a backward pass in training."""
    x = torch.empty(4, CHANNELS, 8, 8, device="cuda").contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(training):
        y = run(x)
    if training:
        y.square().sum().backward()


# Methods whose buffers take the size of the images in the first step, which has a graph of its own.
SIZED = {"conv_spectral_norm"}


@pytest.mark.parametrize("method", registry.names())
def test_one_graph(method: str) -> None:
    """For training and for evaluation; a later step compiles nothing, and updates every buffer in its place."""
    network, graphs = short_classifier("resnet", registry.build(method, {})), Graphs()
    with fake_cuda(available=False):
        placed(network, "cuda").train()
        run = graphs.compiled(network)
        first = [step(run, True) for _ in range(1 + (method in SIZED))]
        buffers = dict(network.named_buffers())
        step(run, True)
        assert len(graphs.found) == len(first)
        assert graphs.done.launches
        assert not graphs.done.waits
        assert not graphs.done.on_cpu
        assert all(value is buffers[name] for name, value in network.named_buffers())
        network.eval()
        step(run, False)
        step(run, False)
        assert len(graphs.found) == len(first) + 1
    for graph in graphs.found:
        recordable(graph)


def test_a_frozen_layer_has_a_graph_for_each_decision() -> None:
    """Its count of steps is not part of them."""
    layer, graphs, launches = DeconvConv2d(CHANNELS, 4, 3, padding=1, freeze=True), Graphs(), []
    assert isinstance(layer, CountsSteps)
    with fake_cuda(available=False):
        placed(layer, "cuda").train()
        run = graphs.compiled(layer)
        for decision in (True, False, False, True):
            layer.steps += 1
            layer.decided = decision
            step(run, True)
            launches.append(graphs.done.launches)
    assert len(graphs.found) == 2
    for graph in graphs.found:
        recordable(graph)
    assert launches[0] == launches[3] > launches[1] == launches[2]  # Only the first computes statistics.
