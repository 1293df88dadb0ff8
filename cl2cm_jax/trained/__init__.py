"""Trained models: open a workdir, a bundle or a model on the hub, and encode texts, pictures and clips."""
