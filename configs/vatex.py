"""VATEX: videos captioned in English, searched in Chinese, in the paper's setting, on published frame features.

Command:   python -m cl2cm_jax.main --config=configs/vatex.py --workdir=runs/vatex --config.data.root=VisualSearch
Argument:  lang = zh
Hardware:  one accelerator (not tried on one yet)
Time:      not measured
Numbers:   SumR, zh, test (1,500 videos):
             NRCCR (I3D features, mBERT)  366.5, printed in its authors' repository
             MLCMR                        383.5, printed by its authors
             this config                  not measured

What is needed and who publishes it: docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import LANGUAGES_OF, paper_setting, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `lang=zh`."""
    options = read_argument(argument, lang=LANGUAGES_OF["vatex"])
    c = paper_setting("frames", captions=10)
    c.data.name = "vatex"
    c.data.targets = (options["lang"],)
    c.data.features = "i3d_kinetics"  # (NRCCR)
    return c
