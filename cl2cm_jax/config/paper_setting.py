"""The setting that the configs of the paper's sets share: multilingual BERT, CLIP or published features.

The paper's own hyperparameters are not public; where NRCCR, code of the same authors, has one, it is taken, so that the
method is what differs: marked (NRCCR), its `do_all_*.sh`, or else the defaults of `train_base.py`; other files are
named.
"""

from __future__ import annotations

from typing import Literal

from ml_collections import ConfigDict

from cl2cm_jax.config.fields import defaults


def paper_setting(vision: Literal["pictures", "frames"], *, captions: int) -> ConfigDict:
    """The shared fields; a config sets its data.

    Args:
      vision: "pictures" through CLIP, or published features of the "frames" of videos.
      captions: English captions of a training image. An epoch draws one of them; NRCCR's has them all.
    """
    c = defaults()
    c.data.root = "VisualSearch"  # the folder of NRCCR's files
    c.text.backbone = "bert"  # (paper: mBERT)
    c.text.path = "google-bert/bert-base-multilingual-cased"
    c.text.max_tokens = 48  # (ours; captions have about 14)
    # mBERT is trained in these layers (NRCCR: 3-11 for pictures, 5-11 for videos), in both networks alike (ours)
    c.student.text.trainable = c.teacher.text.trainable = "layers 3-11" if vision == "pictures" else "layers 5-11"
    if vision == "pictures":
        c.vision.backbone = "clip_vit"  # frozen (NRCCR)
        c.vision.path = "openai/clip-vit-base-patch32"
        # (ours: LayerNorm, linear; NRCCR: 512 -> 1024 -> 1536, BatchNorm, in model.py)
        c.student.vision_tower = "linear"
    else:
        c.vision.backbone = "precomputed"
        c.student.vision_tower = "attention"  # one block over at most 64 frames (NRCCR)
    c.student.text_tower = "attention"  # one block (NRCCR)
    c.student.text_pool = "mean"  # of the words (NRCCR, whose mean includes the padding; ours does not)
    c.student.dim = 1536  # (NRCCR)
    c.student.hidden = 768  # (NRCCR for text; for video it has 1024, ours is one field for both)
    c.student.heads = 8  # (NRCCR)
    c.student.dropout = 0.2  # (NRCCR, after the last linear map; ours is before the towers)
    c.teacher.head = "tower"  # sentences and words (paper); its architecture and the four lines below are ours
    c.teacher.pool = "both"
    c.teacher.hidden = 768
    c.teacher.heads = 8
    c.teacher.steps = "3epochs"
    c.contrastive.loss = "triplet"  # hardest negative, margin 0.2 (NRCCR)
    c.contrastive.margin = 0.2
    c.contrastive.reduction = "mean"  # (ours; NRCCR sums, but the other terms are means)
    c.weights.target = "0.6"  # (NRCCR)
    # optimal transport (paper); the weight is ours: of 1 and 0.01, the one without a loss (docs/word_level.md)
    c.weights.word = "0.01"
    c.weights.transfer = "0.4"  # (NRCCR, of its distillation)
    c.transfer.temperature = 0.07  # (NRCCR)
    c.transfer.student_temperature = 0.07
    c.train.batch_size = 128  # (NRCCR)
    c.train.steps = f"{50 * captions}epochs"  # at most 50 (NRCCR)
    c.train.evaluate_every = c.train.checkpoint_every = f"{captions}epochs"
    c.train.early_stop = 10  # epochs without a better validation (NRCCR, in trainer_img.py: the eleventh ends it)
    c.optimizer.learning_rate = 1e-4  # Adam (NRCCR, decayed by 0.99 an epoch and halved on a plateau)
    c.optimizer.backbone_rate = 1.0  # one rate for all (NRCCR)
    c.optimizer.schedule = "constant"
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip = 2.0  # (NRCCR)
    return c
