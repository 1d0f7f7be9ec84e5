"""Measures the real images of a GAN task in the features of the networks that its GANs are compared in."""

from normbench.suite.real import measure
from normbench.system import stage

if __name__ == "__main__":
    stage.run(measure, "task")
