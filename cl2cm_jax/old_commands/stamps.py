"""`python -m cl2cm_jax.stamps`: the old name of this command."""

from cl2cm_jax.data.sets.pictograms.stamp_captions import main
from cl2cm_jax.errors import exit_cleanly

if __name__ == "__main__":
    exit_cleanly(main)
