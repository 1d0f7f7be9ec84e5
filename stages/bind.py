"""Bind every task to the content of its dataset."""

from normbench import stage
from normbench.data.bind import bind

if __name__ == "__main__":
    stage.run(bind)
