"""Translation of captions: engines, and a resumable job that runs them."""
