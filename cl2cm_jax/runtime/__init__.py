"""Services around the training step: checkpoints, metrics, progress, signals, watchdog. None knows the method."""
