"""The setting that the configs of the paper's sets share: multilingual BERT, CLIP or published features.

Marks: (paper), (siblings) and (ours). The paper's own hyperparameters are not public; where the siblings print theirs,
they are taken, so that what differs from them is the method. The siblings here are NRCCR: its `do_all_*.sh`, and the
defaults of `train_base.py` where these say nothing; a file is named where the choice stands elsewhere.
"""

from __future__ import annotations

from typing import Literal

from ml_collections import ConfigDict

from cl2cm_jax.config.fields import defaults


def paper_setting(vision: Literal["pictures", "frames"], *, captions: int) -> ConfigDict:
    """The shared fields; a config sets its data.

    Args:
      vision: "pictures" through CLIP, or published features of the "frames" of videos.
      captions: English captions of a training image. An epoch draws one of them, and the siblings' sees them all.
    """
    c = defaults()
    c.data.root = "VisualSearch"  # the folder that the siblings' trees lie in
    c.text.backbone = "bert"  # (paper: mBERT)
    c.text.path = "google-bert/bert-base-multilingual-cased"
    c.text.max_tokens = 48  # (ours; captions have about 14)
    # mBERT is tuned, and in these layers (siblings: 3-11 for pictures, 5-11 for videos); in both networks alike (ours)
    c.student.text.trainable = c.teacher.text.trainable = "layers 3-11" if vision == "pictures" else "layers 5-11"
    if vision == "pictures":
        c.vision.backbone = "clip_vit"  # frozen (siblings)
        c.vision.path = "openai/clip-vit-base-patch32"
        # (ours: LayerNorm, linear; siblings: 512 -> 1024 -> 1536, BatchNorm, in model.py)
        c.student.vision_tower = "linear"
    else:
        c.vision.backbone = "precomputed"
        c.student.vision_tower = "attention"  # one block over at most 64 frames (siblings)
    c.student.text_tower = "attention"  # one block (siblings)
    c.student.text_pool = "mean"  # of the words (siblings, whose mean takes the padding in; ours does not)
    c.student.dim = 1536  # (siblings)
    c.student.hidden = 768  # (siblings for text; theirs for video is 1024, ours is one field for both)
    c.student.heads = 8  # (siblings)
    c.student.dropout = 0.2  # (siblings; theirs is behind the last linear map, ours in front of the towers)
    c.teacher.head = "tower"  # sentences and words (paper); what it is made of is ours, and so are the four lines below
    c.teacher.pool = "both"
    c.teacher.hidden = 768
    c.teacher.heads = 8
    c.teacher.steps = "3epochs"
    c.contrastive.loss = "triplet"  # hardest negative, margin 0.2 (siblings)
    c.contrastive.margin = 0.2
    c.contrastive.reduction = "mean"  # (ours; the siblings sum, but the other terms are means)
    c.weights.target = "0.6"  # (siblings)
    # optimal transport (paper); the weight is ours: of 1 and 0.01, the one that did no harm (docs/word_level.md)
    c.weights.word = "0.01"
    c.weights.transfer = "0.4"  # (siblings, of their distillation)
    c.transfer.temperature = 0.07  # (siblings)
    c.transfer.student_temperature = 0.07
    c.train.batch_size = 128  # (siblings)
    c.train.steps = f"{50 * captions}epochs"  # at most 50 of the siblings'
    c.train.evaluate_every = c.train.checkpoint_every = f"{captions}epochs"
    c.train.early_stop = 10  # epochs without a better validation (siblings, in trainer_img.py: the eleventh ends it)
    c.optimizer.learning_rate = 1e-4  # Adam (siblings; they decay by 0.99 an epoch and halve on a plateau)
    c.optimizer.backbone_rate = 1.0  # one rate for all (siblings)
    c.optimizer.schedule = "constant"
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip = 2.0  # (siblings)
    return c
