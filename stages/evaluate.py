"""Score the trained runs of a task and variant: corrupted images, calibration, attacks."""

from normbench import stage
from normbench.evaluation.evaluate import evaluate

if __name__ == "__main__":
    stage.run(evaluate, "task", "variant")
