"""`python -m cl2cm_jax.judge`: the old name of this command."""

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.studies.external_eval.__main__ import main

if __name__ == "__main__":
    exit_cleanly(main)
