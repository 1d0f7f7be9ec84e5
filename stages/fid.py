"""Measures the FID of the GANs of a task and variant."""

from normbench.suite.fid import score
from normbench.system import stage

if __name__ == "__main__":
    stage.run(score, "task", "variant")
