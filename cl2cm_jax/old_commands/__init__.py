"""Commands under their old names, `python -m cl2cm_jax.ablate` and its like, kept for one release."""
