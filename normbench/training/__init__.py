"""Training of classifiers: tasks and recipes, the training loop, and what it is made of."""
