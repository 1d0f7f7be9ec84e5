"""Check params.yaml and write what every later stage depends on."""

from normbench.suite import resolve
from normbench.system import stage

if __name__ == "__main__":
    stage.run(resolve.write)
