"""Search as a web page and a JSON API, for one machine or with a token."""
