"""Tuning: hyperparameter search with Optuna, scored within the training split or on the validation split."""
