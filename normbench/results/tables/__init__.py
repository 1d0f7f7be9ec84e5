"""From the records of the suite's runs to the tables in results/ and, for the report, in build/tables.

Scores are means over finished runs. A cell is empty if no finished run has the number.
"""

from normbench.results.tables.gan import GAN
from normbench.results.tables.leaderboard import LEADERBOARD
from normbench.results.tables.write import aggregate

__all__ = ["GAN", "LEADERBOARD", "aggregate"]
