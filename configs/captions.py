"""Your own pictures, captioned in one language, searched in others.

Command:   python -m cl2cm_jax.main --config=configs/captions.py --workdir=runs/mine \
             --config.data.images=photos --config.data.captions=captions.csv \
             --config.data.source=en --config.data.targets=de,fr
Features:  --config.vision.backbone=precomputed --config.data.features=features.npy --config.data.feature_ids=ids.txt
Shards:    --config.data.shards=shards --config.data.captions=  (webdataset tars in place of images and caption file)
Hardware:  a laptop; the frozen backbones run once over pictures and captions
Time:      emoji's 1,880 pictures and their names: 39 s on two CPU cores, once, and 13 s to train (README.md)
Numbers:   yours are in WORKDIR/results.md; what each part gains on photographs is in docs/photographs.md

captions.csv has the columns image, language, caption and, if you like, split (train, validation, test) and origin
(human, machine). The languages are those of the file; see docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration; takes no argument."""
    read_argument(argument)
    c = defaults()
    c.data.name = "captions"
    c.data.captions = "captions.csv"
    c.text.backbone = "use_multilingual"  # knows ar de en es fr it ja ko nl pl pt ru th tr zh
    c.vision.backbone = "efficientnet_lite0"
    c.student.dim = 1024
    c.student.dropout = 0.5
    # The student's own V-S relation teaches V-T, lightly: at 2 it harmed small sets and encoders that learn slowly
    # (docs/photographs.md).
    c.weights.transfer = "0.5"
    c.transfer.sentence = 0.0
    c.transfer.own = 1.0
    c.transfer.temperature = 0.07
    c.transfer.student_temperature = 0.07
    c.train.targets_per_image = -1
    c.train.batch_size = 32  # at most the number of training pictures; larger is better
    c.train.steps = "40epochs"
    c.train.evaluate_every = "4epochs"
    c.train.early_stop = 5
    return c
