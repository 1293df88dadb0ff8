"""Photographs captioned in English, searched in Chinese: trained on machine translations, tested on what people wrote.

Command:   python -m cl2cm_jax.main --config=configs/flickr8k_cn.py --workdir=runs/flickr8k_cn \
             --config.data.root=flickr8k
Arguments: encoder = use (frozen, 16 languages) | e5 (about 100, its upper three layers trained);
           engine = baidu | google, whose Chinese is trained on
Ceiling:   --config.data.train_origin=human, trained on what people wrote
Languages: --config.data.captions=more.csv --config.data.targets=zh,ar,pt, further ones from a caption file
Features:  --config.vision.backbone=precomputed --config.data.features=x.npy --config.data.feature_ids=ids.txt
Hardware:  a laptop; the frozen backbones run once over pictures and captions, E5 for 20 minutes
Tuned by:  cl2cm tune --config=configs/flickr8k_cn.py --workdir=runs/tune --minutes=12 \
             --score=validation --seeds=1 --space="weights.transfer=log:0.5..4 transfer.own=0.7..1.3 \
             transfer.sentence=0.0|0.05|0.1 student.dropout=0.4..0.6 optimizer.learning_rate=log:0.002..0.008"
Time:      5,000 photographs as features, four languages, two busy CPU cores: 43 to 108 s a run; e5 8 to 16 minutes
Numbers:   docs/photographs.md

What is needed and who publishes it: docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `encoder=...,engine=...`."""
    options = read_argument(argument, encoder=("use", "e5"), engine=("baidu", "google"))
    c = defaults()
    c.data.name = "flickr8k_cn"
    c.data.root = "flickr8k"
    c.data.targets = ("zh",)
    c.data.engine = options["engine"]
    c.data.train_origin = "machine"  # (paper)
    c.text.backbone = "use_multilingual"  # knows ar de en es fr it ja ko nl pl pt ru th tr zh
    c.vision.backbone = "efficientnet_lite0"
    c.student.dim = 512
    c.student.dropout = 0.5
    c.teacher.head = "linear"
    c.teacher.pool = "backbone"
    c.teacher.steps = "4epochs"
    c.weights.transfer = "1.19"
    c.transfer.sentence = 0.05
    c.transfer.own = 1.132
    c.transfer.temperature = 0.07
    c.transfer.student_temperature = 0.07
    c.train.targets_per_image = -1
    c.train.batch_size = 512
    c.train.steps = "72epochs"
    c.train.evaluate_every = "8epochs"
    c.optimizer.learning_rate = 4e-3
    if options["encoder"] == "e5":
        _train_e5(c)
    return c


def _train_e5(c: ConfigDict) -> None:
    """Multilingual E5 with its upper three layers trained, after the heads have learnt alone."""
    c.text.backbone = "e5_small"
    c.student.text.trainable = "layers 9-11"
    c.student.text.start = "76.9%"  # 500 of 650 steps
    c.student.text_pool = "both"
    c.optimizer.backbone_rate = 0.5
    c.train.batch_size = 256
    c.train.steps = "650"
    c.train.evaluate_every = "100%"  # validation takes as long as twenty steps
