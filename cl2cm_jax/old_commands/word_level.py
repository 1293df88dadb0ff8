"""`python -m cl2cm_jax.word_level`: the old name of this command."""

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.studies.word_alignment.__main__ import main

if __name__ == "__main__":
    exit_cleanly(main)
