"""The backward pass of torch's autograd, run node by node from Python.

torch's own engine asks the driver for the streams of every tensor that says it is on a GPU, and fails without a GPU.
The nodes themselves do not. Sums of gradients, their reduction to the shape of what was broadcast, and their storage in
`grad` follow torch's engine, so that the same operations are dispatched.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from tests.support.dispatch import same_strides


def run_backward(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    keep_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor],
    allow_unreachable: bool = False,
    *,
    accumulate_grad: bool,
) -> tuple[Tensor | None, ...]:
    """Takes the place of `torch.autograd.graph._engine_run_backward`, of which it has the arguments.

    Higher derivatives, hooks and sparse gradients are not supported. Returns the gradients of `inputs`, unless they are
    accumulated.
    """
    assert not create_graph
    with torch.no_grad():
        return walk(outputs, gradients, inputs, accumulate_grad)


def walk(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], accumulate_grad: bool
) -> tuple[Tensor | None, ...]:
    """See `run_backward`."""
    wanted = [get_gradient_edge(tensor) for tensor in inputs]
    found: dict[tuple[Any, int], Tensor | None] = {}
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    roots = [get_gradient_edge(tensor) for tensor in outputs]
    waiting = dependencies([root.node for root in roots])
    useful = leading_to(waiting, {edge.node for edge in wanted}) if inputs else set(waiting)
    for root, gradient in zip(roots, gradients, strict=True):
        add(arrived[root.node], root.output_nr, gradient)
    ready = [(-order(root.node), i, root.node) for i, root in enumerate(roots) if waiting[root.node] == 0]
    heapq.heapify(ready)
    shared: list[int] = []  # the gradients that the last node gave to several
    while ready:
        *_, node = heapq.heappop(ready)
        given = arrived.pop(node, {})
        for edge in wanted:
            if edge.node is node:
                found[node, edge.output_nr] = given.get(edge.output_nr)
        if hasattr(node, "variable"):
            if given and accumulate_grad and node in useful:
                store(node.variable, given[0], id(given[0]) in shared)
            continue
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        results = apply(node, given) if any(following in useful for following, _ in edges) else [None] * len(edges)
        shared = [id(one) for i, one in enumerate(results) if any(one is other for other in results[:i])]
        for (following, place), gradient in zip(edges, results, strict=True):
            if following in useful and gradient is not None:
                add(arrived[following], place, fitted(gradient, following, place))
            waiting[following] -= 1
            if waiting[following] == 0:
                heapq.heappush(ready, (-order(following), len(arrived) + id(following), following))
    return tuple(None if accumulate_grad else found.get((edge.node, edge.output_nr)) for edge in wanted)


def set_materialize_grads(context: Any, value: bool) -> None:
    """Takes the place of the method of `FunctionCtx`, and keeps a value that can be read: torch's cannot."""
    context.materialize_grads = context.fills_undefined = value


def order(node: Any) -> int:
    """The position of a node in the order of the forward pass; gradients are stored as soon as they are known."""
    return 2**63 if hasattr(node, "variable") else node._sequence_nr()


def dependencies(roots: list[Any]) -> dict[Any, int]:
    """All nodes that follow from some, and how many edges lead to each."""
    counts, todo = dict.fromkeys(roots, 0), list(dict.fromkeys(roots))
    while todo:
        for following, _ in todo.pop().next_functions:
            if following is None:
                continue
            if following not in counts:
                counts[following] = 0
                todo.append(following)
            counts[following] += 1
    return counts


def leading_to(nodes: dict[Any, int], targets: set[Any]) -> set[Any]:
    """Those of the nodes from which a target can be reached, targets included."""
    before = defaultdict(list)
    for node in nodes:
        for following, _ in node.next_functions:
            before[following].append(node)
    found, todo = set(targets), list(targets)
    while todo:
        new = set(before[todo.pop()]) - found
        found |= new
        todo += new
    return found


def apply(node: Any, given: dict[int, Tensor]) -> list[Tensor | None]:
    """The gradients that a node computes, one for each of its edges that lead somewhere."""
    metadata = node._input_metadata
    arguments = [given.get(place) for place in range(len(metadata))]
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        results = node(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        return [result for result, edge in zip(results, node.next_functions, strict=True) if edge[0] is not None]
    if getattr(node, "fills_undefined", True):
        # Of a result that has no gradient torch tells neither the shape nor the device.
        device = next(iter(given.values())).device
        arguments = [
            torch.zeros(tuple(like.shape), dtype=like.dtype, device=device) if value is None else value
            for value, like in zip(arguments, metadata, strict=True)
        ]
    results = node.apply(*arguments)
    results = results if isinstance(results, tuple) else (results,)
    return [value for value, needed in zip(results, node.needs_input_grad, strict=False) if needed]


def fitted(gradient: Tensor, node: Any, place: int) -> Tensor:
    """A gradient in the shape and dtype of what it is the gradient of."""
    like = node._input_metadata[place]
    if tuple(gradient.shape) != tuple(like.shape):
        gradient = gradient.sum_to_size(tuple(like.shape))
    return gradient if gradient.dtype == like.dtype else gradient.to(like.dtype)


def add(arrived: dict[int, Tensor], place: int, gradient: Tensor | None) -> None:
    """Adds a gradient to those that have arrived at a place of a node."""
    if gradient is not None:
        arrived[place] = arrived[place] + gradient if place in arrived else gradient


def store(variable: Tensor, gradient: Tensor, shared: bool) -> None:
    """Adds a gradient to `variable.grad`. A first one is copied if another node has it, or if its strides differ."""
    if variable.grad is not None:
        variable.grad += gradient
    elif same_strides(gradient, variable) and not shared:
        variable.grad = gradient.detach()
    else:
        variable.grad = gradient.new_empty_strided(variable.shape, variable.stride()).copy_(gradient)
