"""Photographs and drawings searched in six languages, trained on machine translations: the paper's setting in small.

Command:   make stamps
Hardware:  a laptop; a Debian or Ubuntu system for the pictures and the translations
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration; takes no argument."""
    c = defaults()
    c.data.name = "stamps"
    c.data.root = "data/stamps-source"
    c.data.captions = "data/stamps.jsonl"
    c.data.source = "en"
    c.data.targets = ("es", "pt", "it", "fr")
    c.data.reported = ("ca", "gl")  # the text backbone was not trained on these two
    c.student.dim = 256
    c.train.steps = "300"
    c.transfer.temperature = 0.05
    return c
