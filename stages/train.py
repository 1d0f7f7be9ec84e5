"""Trains every seed of a task and variant."""

from normbench.suite.train import train_tasks
from normbench.system import stage

if __name__ == "__main__":
    stage.run(train_tasks, "task", "variant")
