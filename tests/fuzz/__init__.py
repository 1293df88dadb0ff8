"""Fuzzing: every reader of what a stranger may have written, as a function of bytes (`targets.py`).

`test_fuzz.py` gives them mutated valid files in `make test`; `python -m fuzz` (make fuzz) lets atheris look further.
"""
