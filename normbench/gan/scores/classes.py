"""The Inception Score: whether a classifier is sure of each image and names all classes; Salimans, arXiv 1606.03498."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class InceptionScore:
    """The score of logits that come in batches, in memory that their number does not change but for their order.

    The score is exp of the mean Kullback-Leibler divergence of the classes of an image from those of all images of its
    part: 1 at least, and the number of classes at most. count: the number of images in all. splits: the number of equal
    parts, to which the images belong in random order; that order is torch-fidelity's for the same seed.
    """

    def __init__(self, count: int, splits: int, seed: int):
        order = np.random.RandomState(seed).permutation(count)
        ends = [part * count // splits for part in range(1, splits + 1)]
        self.part = torch.empty(count, dtype=torch.long)
        self.part[torch.from_numpy(order)] = torch.from_numpy(np.searchsorted(ends, np.arange(count), "right"))
        self.splits, self.done = splits, 0
        self.certainty, self.classes, self.images = (torch.zeros(0, dtype=torch.float64) for _ in range(3))

    def add(self, logits: Tensor) -> None:
        """Counts the next images, (N, classes)."""
        log = logits.double().log_softmax(1)
        own = log.exp()
        if not self.done:
            self.certainty, self.images = (log.new_zeros(self.splits) for _ in range(2))
            self.classes = log.new_zeros(self.splits, log.shape[1])
        part = self.part[self.done : self.done + len(log)].to(log.device)
        self.done += len(log)
        self.certainty.index_add_(0, part, (own * log).sum(1))
        self.classes.index_add_(0, part, own)
        self.images.index_add_(0, part, torch.ones_like(log[:, 0]))

    def result(self) -> tuple[float, float]:
        """Returns the mean and the standard deviation over the parts, none of which may be empty."""
        marginal = self.classes / self.images[:, None]
        divergence = self.certainty / self.images - torch.special.xlogy(marginal, marginal).sum(1)
        scores = divergence.exp()
        return scores.mean().item(), scores.std(correction=0).item()


def inception_score(logits: Tensor, splits: int, seed: int) -> tuple[float, float]:
    """Returns the `InceptionScore` of logits (N, classes), N >= splits: its mean and deviation over the parts."""
    score = InceptionScore(len(logits), splits, seed)
    score.add(logits)
    return score.result()
