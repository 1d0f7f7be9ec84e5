"""AutoAttack (Croce and Hein, arXiv 2003.01690), by the authors' code in the package pyautoattack.

The attacks are bounded in the maximum norm or in the 2-norm.

This is the standard version. Each attack runs on the images that still withstand the attacks before it: APGD on the
cross-entropy; targeted APGD on the DLR loss and targeted FAB, both towards each of the 9 most likely wrong classes (or
all wrong classes if there are fewer); Square with 5,000 queries. The targeted DLR loss is not defined for fewer than 4
classes; its attack is then left out.

Images are in 0..1, before the network's input normalization, which the classifier itself applies.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import sys
from typing import Any, Literal

import torch
from torch import Tensor

from normbench.system.errors import UserError
from normbench.training.attacks import Classifier

PACKAGE = "pyautoattack"
TARGETS = 9  # the most target classes of a targeted attack
NORMS = {"linf": "Linf", "l2": "L2"}  # a norm, and the package's name of it


def version() -> str:
    """The package's name and version, e.g. `pyautoattack 0.2.0`. Raises UserError if it is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"needs the package {PACKAGE}: pip install 'normbench[autoattack]'")
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def parts(classes: int) -> list[str]:
    """The package's names of the attacks, in the order in which they run, for this number of classes."""
    return ["apgd-ce", *(["apgd-t"] if classes > 3 else []), "fab-t", "square"]


def auto_attack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    batch_size: int,
    seed: int,
    norm: Literal["linf", "l2"] = "linf",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Runs AutoAttack on images (N, C, H, W) in 0..1 with labels (N,).

    classifier: must return a new tensor of logits at each call, and gradients without NaN. epsilon: the largest change
    in the norm, for pixels in 0..1. batch_size: images attacked at a time. Images of a batch share some random draws,
    so results depend slightly on it. seed: of all random draws; the caller's random generators are left unchanged.
    norm: the maximum norm or the 2-norm.

    Returns the images (N, C, H, W), adversarial ones in place of those for which one was found, their predicted classes
    (N,), and a dictionary with the robust `accuracy` (0 to 1), the names of the `attacks`, the `package` with its
    version, and `warnings`: messages of the package about doubtful results, the first of each kind. Raises UserError if
    the package is not installed.
    """
    package = version()
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = classifier(images[:1]).shape[1]
    heard, tracer = Listener(), sys.gettrace()
    # The package seeds PyTorch's global generators, and removes the trace function that debuggers and coverage set.
    with heard, torch.random.fork_rng([images.device] if images.is_cuda else []):
        try:
            attack = AutoAttack(classifier, norm=NORMS[norm], eps=epsilon, seed=seed, device=images.device)
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
    return moved, predicted, found


class Listener(logging.Handler):
    """Context manager that collects the package's warnings in `messages` and keeps them off the console.

    Of warnings that differ only in their numbers, the first is kept.
    """

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
