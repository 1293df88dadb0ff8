"""The `vatex` set: features of videos, English to Chinese. Source: NRCCR (names of files)."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.sets.paper.build import paper_set
from cl2cm_jax.data.sets.paper.files import NRCCR, PaperSet

SET = PaperSet(
    name="vatex",
    description="VATEX: features of videos, English to Chinese.",
    published=f"{NRCCR} (captions, features)",
    sizes={"": {"train": 25_991, "validation": 1_500, "test": 1_500}},
    captions_each=10,
    folders=("vatex", "VATEX"),
    prefixes=("vatex",),
)


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`; raises a UserError that lists missing files."""
    return paper_set(SET, data)
