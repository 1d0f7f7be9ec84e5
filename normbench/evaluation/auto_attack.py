"""AutoAttack within a maximum norm (Croce and Hein, arXiv 2003.01690): its authors' code, in the package pyautoattack.

The standard version. Each attack takes on the images that those before it left: APGD on the cross-entropy; APGD on the
DLR loss and FAB, both towards the 9 likeliest wrong classes one by one, or all of them where there are fewer; Square
with 5,000 queries. With fewer than 4 classes that DLR loss is not defined, and its attack is left out.

Images are numbers in 0..1; the network's own normalization comes after the attack.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import sys
from typing import Any

import torch
from torch import Tensor

from normbench.system.errors import UserError
from normbench.training.attacks import Classifier

PACKAGE = "pyautoattack"
TARGETS = 9  # classes that a targeted attack goes through at most


def version() -> str:
    """`pyautoattack 0.2.0`. Raises UserError where the package is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"needs the package {PACKAGE}: pip install 'normbench[autoattack]'")
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def parts(classes: int) -> list[str]:
    """The attacks in their order, by the package's names."""
    return ["apgd-ce", *(["apgd-t"] if classes > 3 else []), "fab-t", "square"]


def auto_attack(
    classifier: Classifier, images: Tensor, labels: Tensor, epsilon: float, batch_size: int, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Images (N, C, H, W) in 0..1, changed where one fools, and `accuracy`, `attacks`, `package`, `warnings`.

    classifier: must return new logits at each call, and give no gradient that is not a number. epsilon: in 0..1.
    batch_size: images attacked at a time; they share some draws, so that another size gives slightly other results.
    seed: of all draws; the caller's generators stay as they were. `warnings` are the package's own, of what makes a
    result doubtful, the first of each kind. Raises UserError where the package is not installed.
    """
    package = version()
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = classifier(images[:1]).shape[1]
    heard, tracer = Listener(), sys.gettrace()
    # The package seeds PyTorch's own generators, and stops the tracer of debuggers and of coverage.
    with heard, torch.random.fork_rng([images.device] if images.is_cuda else []):
        try:
            attack = AutoAttack(classifier, norm="Linf", eps=epsilon, seed=seed, device=images.device)
            attack.attacks_to_run = parts(classes)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
            moved, predicted = attack.run_standard_evaluation(images, labels, batch_size=batch_size)
        finally:
            sys.settrace(tracer)
    right = float((predicted == labels).double().mean())
    found = {
        "accuracy": right,
        "attacks": parts(classes),
        "package": package,
        "warnings": list(heard.messages.values()),
    }
    return moved, found


class Listener(logging.Handler):
    """Keeps the package's warnings from the console; two that differ in their numbers only are of one kind."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.messages.setdefault(re.sub(r"[\d.]+", "", text), text)

    def __enter__(self) -> None:
        logger = logging.getLogger("auto-attack")
        logger.addHandler(self)
        logger.propagate = False

    def __exit__(self, *error: object) -> None:
        logger = logging.getLogger("auto-attack")
        logger.removeHandler(self)
        logger.propagate = True
