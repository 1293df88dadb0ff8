"""Media: decode pictures and clips, crop them, tokenize text."""
