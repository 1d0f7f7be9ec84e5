"""Checks of a network in evaluation mode."""

from __future__ import annotations

import itertools

import torch

from normbench.checks.kit.case import COUNT, Case, Fail, Warn, changed, difference, evaluate, state
from normbench.checks.network import CLOSE, listed

AGREE = 0.05  # relative difference up to which training and evaluation agree
PASSES = 100, 300  # over one batch: enough for a momentum of 0.1, and for one of 0.03
SLOW = 0.97  # a difference that has fallen to this share of itself between the two may fall further


def repeated(case: Case) -> str:
    """Evaluation gives the same output each time, draws no random numbers, and changes no state."""
    network = case.trained().eval()
    before, x = state(network), case.images()
    torch.manual_seed(0)
    first = evaluate(network, x)
    torch.manual_seed(1)
    again = evaluate(network, x)
    moved = changed(before, state(network))
    if moved:
        raise Fail(f"evaluation changes {listed(moved)}", "change it only if self.training")
    if not torch.equal(first, again):
        what = f"the same images give other outputs in evaluation, by {difference(first, again):.1g}"
        raise Fail(what, "draw random numbers only if self.training, and keep nothing from one call to the next")
    return "the same images give the same bits, and nothing that is stored changes"


def other_images(case: Case) -> str:
    """In evaluation, the output for an image does not depend on the other images of its batch."""
    network, x = case.trained(), case.images()
    others = torch.cat([x[:1], 3 * case.images(COUNT - 1, seed=7) + 2])
    together = evaluate(network, x)[:1]
    for what, batch in {"other images": others, "no others": x[:1]}.items():
        found = _relative(together, evaluate(network, batch)[:1])
        if not found < CLOSE:
            seen = f"beside {what}, the output for an image differs by {found:.2g} of its size"
            raise Fail(seen, "take statistics of the batch only if self.training, and running ones otherwise")
    return "an image has the same output alone and beside other images"


def modes_agree(case: Case) -> str:
    """Training and evaluation give the same outputs once the running statistics are those of one batch."""
    if case.draws:
        raise Warn("training draws random numbers, so that it cannot agree with evaluation in each output")
    network = case.trained()
    x = case.images(2 * COUNT).repeat(2, 1, 1, 1)  # both halves alike, for statistics of parts of a batch
    output, found = x, list[float]()
    with torch.no_grad():
        for before, passes in itertools.pairwise((0, *PASSES)):
            for _ in range(before, passes):
                output = network.train()(x)
            found.append(difference(output, evaluate(network, x)))
            if found[-1] < AGREE:
                return f"the outputs differ by {found[-1]:.2g} after {passes} passes over one batch"
    seen = " and ".join(f"{each:.2g} after {passes}" for each, passes in zip(found, PASSES, strict=True))
    message = f"in evaluation, the outputs differ from those in training by {seen} passes over one batch"
    if found[1] < SLOW * found[0]:
        raise Warn(message, "the running statistics follow slowly: train for many steps, or raise the momentum")
    raise Fail(message, "make sure that evaluation computes the same from the running statistics as training")


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / (one.norm() + 1e-30)).item()
