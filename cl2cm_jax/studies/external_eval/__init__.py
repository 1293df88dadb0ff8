"""External evaluation: mteb and clip-benchmark on our models and local data."""
