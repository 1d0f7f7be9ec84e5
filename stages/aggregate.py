"""The records of the suite to the tables of results/."""

from normbench.results.tables import aggregate
from normbench.system import stage

if __name__ == "__main__":
    stage.run(aggregate)
