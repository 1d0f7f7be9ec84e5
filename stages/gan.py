"""Trains every seed of a GAN task and variant."""

from normbench.suite.train import train_gans
from normbench.system import stage

if __name__ == "__main__":
    stage.run(train_gans, "task", "variant")
