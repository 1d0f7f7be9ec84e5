"""Records to tables: what the runs of the suite left, as the files of results/ and, for the report, of build/tables.

Scores are means over finished runs. Where no finished run has a number, its cell is empty.
"""

from normbench.results.tables.gan import GAN
from normbench.results.tables.leaderboard import LEADERBOARD
from normbench.results.tables.write import aggregate

__all__ = ["GAN", "LEADERBOARD", "aggregate"]
