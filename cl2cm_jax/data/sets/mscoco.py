"""The `mscoco` set: photographs, English to Chinese (COCO-CN) or Japanese (STAIR Captions).

Source: NRCCR (names of files).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.sets.paper.build import paper_set
from cl2cm_jax.data.sets.paper.files import NRCCR, EvaluationNames, PaperSet


def _names(target: str, task: int) -> EvaluationNames:
    del task
    test, back = f"test_1k_{target}", (f"test_1k_google_{target}2enc", f"test_google_1k_{target}2enc")  # by analogy
    if target == "zh":
        test, back = "test_zh", ()
    return EvaluationNames(
        (f"val_{target}", test), ((f"val_google_{target}2enc",), (*back, f"test_google_{target}2enc"))
    )


def _id_lists(target: str) -> dict[str, tuple[str, ...]]:
    return {
        "train": ("train_id.txt", "train.txt"),
        "validation": (f"{target}_val_id.txt",),
        "test": (f"{target}_test_id.txt",),
    }


SET = PaperSet(
    name="mscoco",
    description="MSCOCO: photographs, English to Chinese (COCO-CN) or Japanese (STAIR Captions).",
    published=f"{NRCCR} (captions, id lists); zh is COCO-CN, https://github.com/li-xirong/coco-cn, ja is STAIR "
    "Captions, https://stair-lab-cit.github.io/STAIR-captions-web/; pictures: https://cocodataset.org",
    sizes={"zh": {"train": 18_341, "validation": 1_000, "test": 1_000}, "ja": {"test": 1_000}},
    folders=("mscoco",),
    prefixes=("mscoco",),
    names=_names,
    pictures="all_pics",
    id_lists=_id_lists,
    picture_names="image_ids.txt",
)


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`; raises a UserError that lists missing files."""
    return paper_set(SET, data)
