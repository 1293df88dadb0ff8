"""Multi30K: photographs captioned in English, searched in German, French or Czech, in the paper's setting.

Command:   python -m cl2cm_jax.main --config=configs/multi30k.py:lang=de,task=2 --workdir=runs/multi30k-de \
             --config.data.root=VisualSearch
Argument:  lang = de | fr | cs | all (one model for the three), task = 2 (five captions per image) | 1 (one)
Features:  --config.vision.backbone=precomputed --config.data.features=resnet_152, in place of pictures and CLIP
Hardware:  one accelerator (not tried on one yet)
Time:      not measured
Numbers:   SumR, de / fr / cs, task 2, test 2016:
             NRCCR (CLIP ViT-B/32, mBERT; query fused)  480.9 / 482.1 / 467.1, printed in its authors' repository
             this config                                not measured
             (beside NRCCR's: --config.evaluation.query=fused)

What is needed and who publishes it: docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import LANGUAGES_OF, paper_setting, read_argument

LANGUAGES = LANGUAGES_OF["multi30k"]


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `lang=...,task=...`."""
    options = read_argument(argument, lang=(*LANGUAGES, "all"), task=("2", "1"))
    task = int(options["task"])
    c = paper_setting("pictures", captions=5 if task == 2 else 1)
    c.data.name = "multi30k"
    c.data.targets = LANGUAGES if options["lang"] == "all" else (options["lang"],)
    c.data.task = task
    return c
