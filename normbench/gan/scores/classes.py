"""The Inception Score: whether a classifier is sure of each image and names all classes; Salimans, arXiv 1606.03498."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def inception_score(logits: Tensor, splits: int, seed: int) -> tuple[float, float]:
    """The mean and the standard deviation of the score over equal parts of the images, in random order.

    logits: (N, classes), N >= splits. The score is exp of the mean Kullback-Leibler divergence of the classes of an
    image from those of all images of its part: 1 at least, and the number of classes at most. The order is that of
    torch-fidelity for the same seed.
    """
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits)))
    known = logits.double()[order.to(logits.device)].log_softmax(1)
    scores = []
    for part in range(splits):
        log = known[part * len(known) // splits : (part + 1) * len(known) // splits]
        own = log.exp()
        # A class whose probability is 0 in float64 for every image adds nothing.
        marginal = own.mean(0).clamp(min=torch.finfo(torch.float64).tiny).log()
        scores.append((own * (log - marginal)).sum(1).mean().exp())
    found = torch.stack(scores)
    return found.mean().item(), found.std(correction=0).item()
