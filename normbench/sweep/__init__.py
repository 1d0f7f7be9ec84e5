"""Many runs at once: what is to be trained, how long it takes, and the training of all of it."""
