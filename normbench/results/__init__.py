"""From records to tables, plots and the report. `load` returns the runs as a data frame."""

from normbench.results.frame import load

__all__ = ["load"]
