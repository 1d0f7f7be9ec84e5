"""Train every seed of a GAN task and variant."""

from normbench import stage
from normbench.gan.train import train

if __name__ == "__main__":
    stage.run(train, "task", "variant")
