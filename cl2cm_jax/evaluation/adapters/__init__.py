"""Judges of others (mteb, clip-benchmark) on our models and local data: what they ask for, and whether they agree."""
