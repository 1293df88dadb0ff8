"""Translation engines, one module each, chosen by its name: `--engine=apertium`."""
