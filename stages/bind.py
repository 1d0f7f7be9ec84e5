"""Bind every task to the content of its dataset."""

from normbench.suite.bind import bind
from normbench.system import stage

if __name__ == "__main__":
    stage.run(bind)
