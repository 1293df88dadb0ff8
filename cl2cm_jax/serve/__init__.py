"""The search as a web page and a JSON API, for one machine or behind a token."""
