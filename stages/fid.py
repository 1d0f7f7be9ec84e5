"""Scores the GANs of a task and variant: FID and its relatives."""

from normbench.suite.fid import score
from normbench.system import stage

if __name__ == "__main__":
    stage.run(score, "task", "variant")
