"""Search: text in any of the languages -> ranked pictures of a gallery. No TensorFlow."""
