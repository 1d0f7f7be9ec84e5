"""Whether trained weights still give the predictions that were stored when the run was trained.

On a CPU of the same model, with the same versions of torch and of Python's numpy, they do so for every image. Elsewhere
sums are rounded in another order, and on CUDA kernels are chosen by their speed unless the recipe is deterministic, so
that the last digits of the logits differ; then another class may win for an image only where the stored and the new
class are near a tie.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from normbench.evaluation.subject import Subject
from normbench.runs import provenance
from normbench.runs.contents import PREDICTIONS
from normbench.runs.record import Record
from normbench.system.errors import UserError
from normbench.training.logits import logits

# The largest difference between the logits of two classes that counts as a tie, as a fraction of the range of the
# image's logits. TF32 multiplies with 10 bits after the point, bfloat16 with 7: a relative error of 2^-11 and 2^-8 in
# each product, of which the sums over the layers of a network make some ten times as much. Float32 has 23 bits, but
# the converged roots of Network Deconvolution multiply its error by up to some ten thousand.
TIE = {"float32": 2.0**-6, "tf32": 2.0**-6, "bfloat16": 2.0**-3}
DECIDING = ("torch", "numpy")  # packages on whose versions the last digits depend


def check(record: Record, run: Path, subject: Subject) -> None:
    """Raises UserError, which names the run, if its weights, predictions and clean accuracy do not fit together.

    run: the folder with its files, which were compared with their sha256. subject: its network and the test images.
    """
    with np.load(run / PREDICTIONS, allow_pickle=False) as arrays:
        stored = arrays["predicted"]
    images = subject.images
    labels = images.labels.cpu().numpy()
    accuracy = record.metrics["clean_accuracy"]
    if stored.shape != labels.shape or float((stored == labels).mean()) != accuracy:
        raise UserError(f"{run}: run {record.run}: {PREDICTIONS} does not give its clean accuracy of {accuracy:.6g}")
    found = logits(subject.model, images, images.pixels, subject.precision)
    now = found.argmax(1).numpy()
    differing = np.flatnonzero(now != stored)
    if same_machine(record, images.pixels.device.type):
        bad, bound = differing, "on the same kind of machine all must agree"
    else:
        bad = differing[~near_tie(found[differing], now[differing], stored[differing], TIE[subject.precision])]
        bound = "more than rounding can change"
    if len(bad):
        raise UserError(
            f"{run}: run {record.run}: its weights give {len(bad)} of {len(stored)} test images another class than "
            f"{PREDICTIONS} (clean accuracy {float((now == labels).mean()):.6g}, recorded {accuracy:.6g}): {bound}"
        )


def same_machine(record: Record, device: str) -> bool:
    """Whether this process computes the very digits that the training of a run computed."""
    origin = record.provenance
    here = provenance.versions()
    return (
        origin.device.type == device == "cpu"
        and origin.device.name == provenance.cpu_name()
        and all(origin.versions.get(name) == here.get(name) for name in DECIDING)
    )


def near_tie(found: Tensor, now: np.ndarray, stored: np.ndarray, tie: float) -> np.ndarray:
    """Whether the logits of two classes of each image nearly agree; bool (N,).

    found: (N, classes). now, stored: the classes (N,). tie: see `TIE`. Logits that are not finite decide nothing.
    """
    rows = torch.arange(len(found))
    gap = found[rows, torch.from_numpy(now).long()] - found[rows, torch.from_numpy(stored).long()]
    wide = found.amax(1) - found.amin(1)
    return (~found.isfinite().all(1) | (gap <= tie * wide)).numpy()
