"""Word alignment: the word-level teacher loss, measured on parallel text."""
