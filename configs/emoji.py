"""Emoji drawings searched in eleven languages: the demo.

Command:   python -m cl2cm_jax.main --config=configs/emoji.py --workdir=runs/emoji
Hardware:  a laptop; nothing to download beyond the Python packages
Tuned by:  cl2cm tune --config=configs/emoji.py --workdir=runs/tune --minutes=10 \
             --space="weights.transfer=log:1..8 transfer.own=0|0.5 transfer.temperature=log:0.05..0.15 \
             transfer.student_temperature=log:0.05..0.15 train.targets_per_image=1|2 student.dropout=0.3..0.6 \
             optimizer.learning_rate=log:0.0007..0.003"
Time:      on two CPU cores: data and features 39 s, once; training 13 s
Numbers:   README.md (the demo's test split), docs/ablation.md (seven folds, part by part)
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration; takes no argument."""
    read_argument(argument)
    c = defaults()
    c.data.name = "emoji"
    c.data.source = "en"
    c.data.targets = ("ar", "de", "es", "fr", "it", "ja", "ko", "pt", "ru", "tr", "zh")
    c.data.reported = ("fa", "id")  # the text backbone was not trained on these two
    c.text.max_tokens = 16  # 99 % of the names have at most 12 word pieces
    c.student.dim = 1024
    c.student.dropout = 0.392
    c.teacher.head = "linear"
    c.teacher.pool = "backbone"
    c.teacher.steps = "70"
    c.teacher.folds = 2
    c.weights.transfer = "1.462"
    c.transfer.own = 0.5
    c.transfer.temperature = 0.0627
    c.transfer.student_temperature = 0.1369
    c.train.steps = "200"
    c.confidence.kind = "posterior"
    c.optimizer.learning_rate = 1.099e-3
    return c
