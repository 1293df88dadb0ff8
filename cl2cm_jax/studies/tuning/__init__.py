"""Tuning: a search over config fields with Optuna, scored on validation data."""
