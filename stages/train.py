"""Train every seed of a task and variant."""

from normbench.training.classify import train

from normbench.system import stage

if __name__ == "__main__":
    stage.run(train, "task", "variant")
