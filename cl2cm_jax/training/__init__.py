"""Training: make a config concrete, run the training loop, evaluate and write the results."""
