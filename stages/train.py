"""Train every seed of a task and variant."""

from normbench.system import stage
from normbench.training.classify import train

if __name__ == "__main__":
    stage.run(train, "task", "variant")
