"""Comparison of finished runs with each other and with published numbers."""
