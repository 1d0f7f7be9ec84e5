"""Many runs at once: planning, cost estimates, sweeps on one machine or a cluster, and the upkeep of the run store."""
