"""Corrupt the test images of one dataset."""

from normbench.suite.corrupt import corrupt_intact
from normbench.system import stage

if __name__ == "__main__":
    stage.run(corrupt_intact, "dataset")
