"""Measures the FID of the GANs of a task and variant."""

import torchmetrics.image.fid  # noqa: F401  # used later; here, so that it is imported before the stage is forked

from normbench.suite.fid import score
from normbench.system import stage

if __name__ == "__main__":
    stage.run(score, "task", "variant")
