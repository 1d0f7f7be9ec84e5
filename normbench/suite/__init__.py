"""The suite: from params.yaml to the runs that are asked for."""
