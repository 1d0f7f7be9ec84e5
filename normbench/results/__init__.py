"""From records to tables, plots and the report. `load` returns the runs as a data frame, `predictions` each image's."""

from normbench.results.frame import load
from normbench.results.predicted import predictions

__all__ = ["load", "predictions"]
