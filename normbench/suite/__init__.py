"""The suite: from params.yaml to the runs that it asks for, and the work of the stages."""
