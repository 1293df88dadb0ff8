"""Evaluation: embeddings -> exact ranks -> named metrics -> tables, intervals and a picture. Arrays in, no model."""
