"""The records of the suite to the tables of results/."""

from normbench import stage
from normbench.results.tables import aggregate

if __name__ == "__main__":
    stage.run(aggregate)
