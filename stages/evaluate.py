"""Evaluate the trained runs of a task and variant on corrupted images."""

from normbench import stage
from normbench.evaluation.corrupted import evaluate

if __name__ == "__main__":
    stage.run(evaluate, "task", "variant")
