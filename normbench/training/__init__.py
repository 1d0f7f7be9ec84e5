"""Training of classifiers: the loop, and the runs of a task and variant."""
