"""The tasks of runs: of classification, of segmentation, and of GANs."""

from __future__ import annotations

from normbench.gan.task import GanTask
from normbench.segmentation.task import SegmentationTask
from normbench.training.task import Task

AnyTask = Task | SegmentationTask | GanTask
EpochTask = Task | SegmentationTask  # whose training is counted in epochs
