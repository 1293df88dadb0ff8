"""Word alignment: the word-level teacher loss on parallel text alone."""
