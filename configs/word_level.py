"""The teacher alone on parallel text, with and without its word level.

Command:   cl2cm align-words --text=multi30k --config=configs/word_level.py
Hardware:  a laptop; the frozen text backbone runs once over the sentences (29,000 in four languages: 2 GB of features)
Time:      on two busy CPU cores 12 minutes for the features, once, and 39 for all rows and three seeds
Numbers:   docs/word_level.md

--text names the folder; config.data.captions is set to it. The student is never trained: train.steps only defines the
length of durations that are given in percent.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration; takes no argument."""
    c = defaults()
    c.data.name = "captions"
    c.data.captions = "multi30k"
    c.data.source = "en"
    c.data.targets = ("de", "fr", "cs")
    c.text.backbone = "use_multilingual"  # knows de and fr, but not cs
    c.text.max_tokens = 48
    c.teacher.head = "linear"
    c.teacher.pool = "both"
    c.teacher.steps = "3epochs"
    c.weights.word = "1.0"
    c.train.batch_size = 256
    c.train.steps = "3epochs"
    c.train.evaluate_every = "1epochs"
    return c
