"""Writes the tables of results/ from the records of the suite."""

from normbench.results.tables import aggregate
from normbench.system import stage

if __name__ == "__main__":
    stage.run(aggregate)
