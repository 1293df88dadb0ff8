"""MSCOCO: photographs captioned in English, searched in Chinese or Japanese, in the paper's setting.

Command:   python -m cl2cm_jax.main --config=configs/mscoco.py:lang=zh --workdir=runs/mscoco-zh \
             --config.data.root=VisualSearch
Argument:  lang = zh (COCO-CN) | ja (STAIR Captions, 1K test images)
Hardware:  one accelerator (not tried on one yet)
Time:      not measured
Numbers:   SumR, zh / ja, test:
             NRCCR (CLIP ViT-B/32, mBERT; query fused)  512.4 / 507.0, printed in its authors' repository
             this config                                not measured
             (beside NRCCR's: --config.evaluation.query=fused)

What is needed and who publishes it: docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import LANGUAGES_OF, paper_setting, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `lang=...`."""
    options = read_argument(argument, lang=LANGUAGES_OF["mscoco"])
    c = paper_setting("pictures", captions=5)
    c.data.name = "mscoco"
    c.data.targets = (options["lang"],)
    return c
