"""The statistics of the comparison: paired differences with intervals and verdicts, and summaries across tasks.

docs/statistics.md says what is computed and why, and how well it holds in simulations with known truth.
"""
