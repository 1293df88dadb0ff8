"""What the training step would need and take on a TPU that is not there: compiled ahead of time, and read off."""
