"""Looks at the data outside of DVC's view, and notes their digests in build/outside.json."""

from normbench.suite.look import look
from normbench.system import stage

if __name__ == "__main__":
    stage.run(look)
