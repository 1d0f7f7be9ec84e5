"""Checks of what a network keeps from one step to the next: what is stored, copied, repeated and forgotten."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import torch
from torch import Tensor, nn

from normbench.checks.kit.case import Case, Fail, Warn, changed, difference, evaluate, state
from normbench.checks.network import SAME, listed
from normbench.system import blame

STEPS, FEWER = 200, 20  # steps over which memory must not grow


def stored_state(case: Case) -> str:
    """All that training changes is in the state_dict: a network that loads it goes on and evaluates in the same way."""
    examination = case.examination(["attributes"])
    network = examination.built()
    plain = examination.plain(network)
    optimizer = case.optimizer(network)
    for number in range(3):
        case.step(network, optimizer, case.images(seed=number))
    moved = [place for place, value in examination.plain(network).items() if value != plain.get(place)]
    names = listed(dict.fromkeys(f"{kind.__name__}.{key}" for kind, key in moved))
    other, x = case.network(), case.images(seed=9)
    other.load_state_dict(copy.deepcopy(network.state_dict()))
    advice = f"{names or 'what training changes'} is not in the state_dict: make it a buffer with register_buffer"
    found = difference(evaluate(network, x), evaluate(other, x))
    if not found < SAME:
        raise Fail(f"a network with the same state_dict evaluates differently, by {found:.2g}", advice)
    losses = []
    for each in (network, other):
        torch.manual_seed(0)
        losses.append(case.loss(each.train(), x).item())
    if abs(losses[0] - losses[1]) > SAME * abs(losses[0]):
        seen = f"a network with the same state_dict has the training loss {losses[1]:.6g} in place of {losses[0]:.6g}"
        raise Fail(seen, advice)
    # What is no number or text, such as a tensor that is kept for the next step, has no effect here.
    values = [
        (f"{kind.__name__}.{key}", getattr(one, key, None), getattr(another, key, None))
        for one, another in zip(network.modules(), other.modules(), strict=True)
        for kind, key in moved
        if isinstance(one, kind)
    ]
    counts = [name for name, one, another in values if isinstance(one, int | float | str) and one != another]
    if counts:
        raise Warn(
            f"{listed(dict.fromkeys(counts))} changes in training and is not in the state_dict",
            "a resumed run starts with the first value",
        )
    return "a network with the same state_dict trains and evaluates in the same way"


def round_trip(case: Case) -> str:
    """The state_dict has the same entries from the first step on, and can be written, read and loaded."""
    network = case.network()
    before = set(network.state_dict())
    trained = case.trained()
    new = sorted(before ^ set(trained.state_dict()))
    if new:
        raise Fail(f"training changes which entries are stored: {listed(new)}", "make all of them in __init__")
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file, weights_only=True))
    different = changed(state(trained), state(network))
    if different:
        raise Fail(f"stored and loaded, {listed(different)} has other values", "load what state_dict returns as it is")
    return f"{len(before)} entries are the same after they were written and read"


def copying(case: Case) -> str:
    """copy.deepcopy works after a step, as averages of weights and some scores need, and gives the same outputs."""
    network = case.trained()
    case.loss(network, case.images()).backward()
    x = case.images(seed=9)
    try:
        other = copy.deepcopy(network)
    except Exception as error:  # The layers may be anybody's.
        raise Fail(
            f"the network cannot be copied after a step: {_short(error)}", "keep no result of forward"
        ) from error
    before = state(network)
    found = difference(evaluate(network, x), evaluate(other, x))
    if not found < SAME:
        raise Fail(f"a copy evaluates differently, by {found:.2g}", "keep nothing that refers to another network")
    case.step(other, case.optimizer(other), x)
    moved = changed(before, state(network))
    if moved:
        raise Fail(f"a training step of a copy changes {listed(moved)} of the network", "share nothing with a copy")
    return "a copy gives the same outputs and trains by itself"


def pickling(case: Case) -> str:
    """The whole network can be pickled, as torch.save(network) and processes of loaders need."""
    network, x = case.trained(), case.images(seed=9)
    try:
        other = pickle.loads(pickle.dumps(network))
    except Exception as error:  # The layers may be anybody's.
        advice = "store its state_dict, as normbench does; torch's parametrizations allow nothing else"
        raise Warn(f"the network cannot be pickled: {_short(error)}", advice) from error
    found = difference(evaluate(network, x), evaluate(other, x))
    if not found < SAME:
        raise Fail(f"a pickled network evaluates differently, by {found:.2g}", "let __reduce__ keep all of the state")
    return "a pickled network gives the same outputs"


def determinism(case: Case) -> str:
    """Two trainings from one seed give the same bits, and draw random numbers from torch's generator alone."""
    examination = case.examination()
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        with examination.seeded("training"):
            states.append(state(case.trained()))
    different = changed(*states)
    if different:
        advice = "draw random numbers from torch's global generator, and keep nothing in the class or the file"
        raise Fail(f"two trainings from one seed differ in {listed(different)}", advice)
    if case.draws:
        return "two trainings from one seed give the same bits, with draws of torch's generator, which checkpoints keep"
    return "two trainings from one seed give the same bits"


def memory_growth(case: Case) -> str:
    """No graph is kept from one step to the next, and the memory does not grow over 200 steps."""
    gc.freeze()  # What is there before is not searched again and again, which takes long in a large process.
    try:
        return _steps_keep_nothing(case)
    finally:
        gc.unfreeze()


def _steps_keep_nothing(case: Case) -> str:
    network = case.network()
    optimizer, x = case.optimizer(network), case.images(2)
    saved = weakref.WeakSet[_Saved]()

    def pack(tensor: Tensor) -> _Saved:
        kept = _Saved(tensor)
        saved.add(kept)
        return kept

    case.step(network, optimizer, x)  # the first step may prepare things
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        for _ in range(2):
            case.step(network, optimizer, x)
    gc.collect()
    kept = _with_graph(network)
    if saved or kept:
        advice = "detach what is kept, and keep it in a buffer"
        raise Fail(f"the graph of a step is still alive after it{f', in {listed(kept)}' if kept else ''}", advice)
    sizes, steps = [], FEWER if case.quick else STEPS
    for number in range(steps):
        case.step(network, optimizer, x)
        if number + 1 in (steps // 2, steps):
            gc.collect()
            sizes.append(_tensors())
    grown = [after - before for before, after in zip(*sizes, strict=True)]
    if grown[1] > 0:
        seen = f"{grown[0]} tensors of {grown[1]:,} bytes more after {steps} steps than after {steps // 2}"
        raise Fail(seen, "keep no tensor from one step to the next, except in a buffer")
    return f"no graph is kept, and the memory is the same after {steps // 2} and {steps} steps"


class _Saved:
    """A tensor that a graph keeps for the backward pass."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def _with_graph(network: nn.Module) -> list[str]:
    """The attributes and buffers of layers that are results with a graph, as `BatchNorm2d.mean`."""
    return list(
        dict.fromkeys(
            f"{type(module).__name__}.{key}"
            for module in network.modules()
            for key, value in {**vars(module), **module._buffers}.items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        )
    )


def _tensors() -> tuple[int, int]:
    """The number and the bytes of the tensors that Python holds, of those made since `gc.freeze`."""
    found = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    return len(found), sum(each.numel() * each.element_size() for each in found)


def _short(error: Exception) -> str:
    return blame.one_line(error).split(". ")[0][:120]
