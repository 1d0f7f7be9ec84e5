"""Whether a network with the method learns: the handwritten digits of scikit-learn, for a fixed number of steps."""

from __future__ import annotations

import functools

import torch

from normbench.checks.kit.case import CLASSES, Case, Fail, Warn
from normbench.data.batches import Images, on_device
from normbench.functional import placement
from normbench.models.registry import classifier
from normbench.training import loop
from normbench.training.logits import logits
from normbench.training.recipe import Recipe

# Epochs and learning rate of each attempt: the next is made if the one before does not do. In haste it is made only if
# the loss has not fallen, which alone makes a failure of the warning.
ATTEMPTS = (5, 0.1), (15, 0.1), (15, 0.02)
BATCH = 64
ENOUGH, PROGRESS = 0.6, 0.99  # the accuracy that counts as learned, and the share of the first loss that counts as none
TEST = 360  # of the 1,797 images


def learning(case: Case) -> str:
    """The training loop of the suite learns digits of 8 x 8 pixels, in up to 20 s where a step is not very slow."""
    train, test = _digits()
    said, best, moved = list[str](), 0.0, False
    for epochs, rate in ATTEMPTS:
        recipe = Recipe(epochs=epochs, batch_size=BATCH, lr=rate, crop_padding=1, drop_last=True)
        torch.manual_seed(0)
        network = classifier("resnet8", {"width": case.width}, case.method, 1, CLASSES)
        network = placement.placed(network, "cpu", recipe.memory_format)
        outcome = loop.fit(network, case.method, train.made_for(network), recipe, 0, lambda *_: None)
        images = test.made_for(network)
        what = f"after {epochs * (len(train) // BATCH)} steps at a learning rate of {rate:g}"
        if outcome.diverged is None:
            predicted = logits(network, images, images.pixels, "float32").argmax(1)
            share = (predicted == test.labels).double().mean().item()
            losses = [epoch["loss"] for epoch in outcome.history]
            best, moved = max(best, share), moved or losses[-1] < PROGRESS * losses[0]
            said.append(f"{share:.0%} of the digits right {what}")
        else:
            said.append(f"diverged {what}")
        if best >= ENOUGH or (case.quick and moved):
            break
    seen = ", ".join(said)
    if not moved:
        raise Fail(f"{seen}; the loss does not fall", "see the checks of gradients and finite values")
    if len(said) > 1 or best < ENOUGH:
        raise Warn(seen, "it needs more steps or another learning rate than batch norm, or other initial weights")
    return seen


@functools.cache
def _digits() -> tuple[Images, Images]:
    """Training and test images of the digits, 8 x 8 pixels, on the CPU."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pixels = (torch.from_numpy(data.images) * (255 / 16)).round().to(torch.uint8)[order][..., None]
    labels = torch.from_numpy(data.target).long()[order]
    scaled = pixels[TEST:].double() / 255
    mean, std = [scaled.mean().item()], [scaled.std().item()]
    train = on_device(pixels[TEST:], labels[TEST:], mean, std, "cpu")
    return train, on_device(pixels[:TEST], labels[:TEST], mean, std, "cpu")
