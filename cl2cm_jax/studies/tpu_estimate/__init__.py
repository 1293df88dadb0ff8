"""TPU estimate: memory and time of a training step from the compiled program."""
