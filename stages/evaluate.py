"""Scores the trained runs of a task and variant: corrupted images, calibration, attacks, smoothness."""

from normbench.suite.evaluate import evaluate
from normbench.system import stage

if __name__ == "__main__":
    stage.run(evaluate, "task", "variant")
