"""Train every seed of a GAN task and variant."""

from normbench.gan.train import train

from normbench.system import stage

if __name__ == "__main__":
    stage.run(train, "task", "variant")
