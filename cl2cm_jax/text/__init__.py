"""Text: language codes, what of a text is read, JSON, and what a terminal shows."""
