"""MSR-VTT-CN: videos captioned in English, searched in Chinese, in the paper's setting, on published frame features.

Command:   python -m cl2cm_jax.main --config=configs/msrvtt_cn.py --workdir=runs/msrvtt_cn \
             --config.data.root=VisualSearch
Argument:  lang = zh
Hardware:  one accelerator (not tried on one yet)
Time:      not measured
Numbers:   SumR, zh, test:
             NRCCR (ResNeXt-101 and ResNet-152 features, mBERT)  308, printed in its authors' repository
             this config                                         not measured

What is needed and who publishes it: docs/data.md.
"""

from ml_collections import ConfigDict

from cl2cm_jax.config import LANGUAGES_OF, paper_setting, read_argument


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration for `lang=zh`."""
    options = read_argument(argument, lang=LANGUAGES_OF["msrvtt_cn"])
    c = paper_setting("frames", captions=20)
    c.data.name = "msrvtt_cn"
    c.data.targets = (options["lang"],)
    c.data.features = "resnext101-resnet152"  # (NRCCR)
    return c
