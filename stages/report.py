"""Writes the report, results/report.html, from the tables."""

from normbench.results.report import report
from normbench.system import stage

if __name__ == "__main__":
    stage.run(report)
