"""Frozen features: run the backbones once over a data set and keep their outputs on disk."""
