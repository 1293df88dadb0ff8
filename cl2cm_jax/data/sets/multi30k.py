"""The `multi30k` set: photographs, English to German, French and Czech.

Its tree is NRCCR's, or a copy of the raw text's repository. Source: NRCCR (names of files).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.sets.paper.build import paper_set
from cl2cm_jax.data.sets.paper.files import NRCCR, EvaluationNames, PaperSet
from cl2cm_jax.data.sets.paper.raw_multi30k import RawFiles


def _names(target: str, task: int) -> EvaluationNames:
    end = "_task1" if task == 1 and target == "de" else ""
    english = "_task1" if task == 1 else ""  # by analogy; that of task 2 has five captions per image
    return EvaluationNames(
        (f"val_{target}{end}", f"test_{target}_2016{end}"),
        ((f"val_google_{target}2enc{end}",), (f"test_google_{target}2enc_2016{end}",)),
        (
            (f"val_en{english}", f"val_enc{english}"),
            (f"test_en_2016{english}", f"test_enc_2016{english}"),
        ),
    )


def _id_lists(target: str) -> dict[str, tuple[str, ...]]:
    del target
    return {
        "train": ("train_id.txt", "train.txt"),
        "validation": ("val_id.txt", "val.txt"),
        "test": ("test_id_2016.txt",),
    }


SET = PaperSet(
    name="multi30k",
    description="Multi30K: photographs, English to German, French and Czech.",
    published=f"{NRCCR} (captions, id lists, features) and https://github.com/multi30k/dataset (raw text, and how to "
    "get the pictures)",
    sizes={"": {"train": 29_000, "validation": 1_014, "test": 1_000}},
    folders=("multi30k",),
    prefixes=("multi30k",),
    train_prefixes={2: ("Flickr30k",)},
    names=_names,
    pictures="flickr30k-images",
    id_lists=_id_lists,
)


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`; raises a UserError that lists missing files."""
    return paper_set(SET, data, raw=RawFiles.found_in)
