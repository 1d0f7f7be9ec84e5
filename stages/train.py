"""Trains every seed of a task and variant."""

from normbench.suite.train import train_classifiers
from normbench.system import stage

if __name__ == "__main__":
    stage.run(train_classifiers, "task", "variant")
