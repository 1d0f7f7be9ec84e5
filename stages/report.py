"""The tables to one HTML page, results/report.html."""

from normbench import stage
from normbench.results.report import report

if __name__ == "__main__":
    stage.run(report)
