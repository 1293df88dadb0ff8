"""Your own pictures, captioned in one language, searched in others.

Command:   python -m cl2cm_jax.main --config=configs/captions.py --workdir=runs/mine \
             --config.data.images=photos --config.data.captions=captions.csv \
             --config.data.source=en --config.data.targets=de,fr
Models:    --config=configs/captions.py:model=siglip2 starts at a better model (siglip2, openclip-xlmr, metaclip2, e5;
             docs/models.md), which is downloaded, or is a folder: --config.text.path=F --config.vision.path=F
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

# both towers of one model: hub id, dimensions, longest text in tokens
TOWERS = {
    "siglip2": ("google/siglip2-base-patch16-256", 768, 64),
    "openclip-xlmr": ("laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k", 512, 77),
    "metaclip2": ("facebook/metaclip-2-worldwide-b16", 512, 77),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `model=...`."""
    model = read_argument(argument, model=("small", *TOWERS, "e5"))["model"]
    c = defaults()
    c.data.name = "captions"
    c.data.captions = "captions.csv"
    # use_multilingual for ar de en es fr it ja ko nl pl pt ru th tr zh; e5_small (about 100, extra e5) for all others
    c.text.backbone = "auto"
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
    if model in TOWERS:
        _start_at(c, *TOWERS[model])
    if model == "siglip2":
        c.contrastive.loss = "sigmoid"
    if model == "e5":
        _train_e5(c)
    return c


def _start_at(c: ConfigDict, path: str, dim: int, max_tokens: int) -> None:
    """Both towers of a model, which the student is before the first step; small steps, and a way back."""
    c.text.backbone, c.text.path, c.text.max_tokens = "clip_text", path, max_tokens
    c.vision.backbone, c.vision.path = "clip_vit", path
    c.student.dim, c.student.dropout = dim, 0.0
    c.student.text_residual = c.student.vision_residual = True
    c.student.text.trainable = "layers 9-11"
    c.contrastive.temperature = 0.0  # the model's own
    c.optimizer.learning_rate = 1e-4  # of the heads; the layers have a tenth
    c.weights.start = "0.1"
    c.train.interpolations = 10
    c.train.steps = "10epochs"
    c.train.evaluate_every = "1epoch"


def _train_e5(c: ConfigDict) -> None:
    """Multilingual E5 with its upper three layers trained after the heads, as docs/photographs.md measured it."""
    c.text.backbone = "e5_small"
    c.student.text.trainable = "layers 9-11"
    c.student.text.start = "76.9%"
    c.student.text_pool = "both"
    c.optimizer.backbone_rate = 0.5
