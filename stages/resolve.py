"""Checks params.yaml and writes the files that the later stages depend on."""

from normbench.suite import resolve
from normbench.system import stage

if __name__ == "__main__":
    stage.run(resolve.write)
