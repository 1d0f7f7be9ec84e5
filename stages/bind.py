"""Notes for every task what its dataset holds."""

from normbench.suite.bind import bind
from normbench.system import stage

if __name__ == "__main__":
    stage.run(bind)
