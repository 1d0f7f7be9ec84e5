"""The tables to one HTML page, results/report.html."""

from normbench.results.report import report
from normbench.system import stage

if __name__ == "__main__":
    stage.run(report)
