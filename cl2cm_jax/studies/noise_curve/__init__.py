"""Noise curve: recall over the share of wrong translations."""
