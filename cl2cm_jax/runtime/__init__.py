"""What surrounds the step: checkpoints, metrics, progress, signals, the watchdog. Nothing here knows the method."""
