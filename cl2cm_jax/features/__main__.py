"""`cl2cm features`: computes the features that are missing."""

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.features.cache import main

if __name__ == "__main__":
    exit_cleanly(main)
