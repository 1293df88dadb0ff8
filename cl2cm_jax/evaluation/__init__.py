"""Evaluation: embeddings, exact ranks, metrics, tables and a picture of the results."""
