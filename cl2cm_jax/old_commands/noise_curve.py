"""`python -m cl2cm_jax.noise_curve`: the old name of this command."""

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.studies.noise_curve import main

if __name__ == "__main__":
    exit_cleanly(main)
