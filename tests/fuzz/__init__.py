"""Fuzz tests of every reader of untrusted files and requests, each as a function of bytes (`targets.py`).

`test_fuzz.py` gives them mutated valid files; `python -m fuzz` (make fuzz) runs atheris on them.
"""
