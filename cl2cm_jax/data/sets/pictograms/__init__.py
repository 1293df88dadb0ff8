"""The packages that `emoji`, `fluent` and `stamps` are made of: names, drawings, concepts."""
