"""The `msrvtt_cn` set: features of videos, English to Chinese. Source: NRCCR (names of files)."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.sets.paper.build import paper_set
from cl2cm_jax.data.sets.paper.files import NRCCR, PaperSet

SET = PaperSet(
    name="msrvtt_cn",
    description="MSR-VTT-CN: features of videos, English to Chinese.",
    published=f"{NRCCR} (captions, features)",
    sizes={"": {"test": 1_000}},  # MLCMR's README; it states the size of no other split
    folders=("msrvttcn", "msrvtt10kcn", "msrvtt_cn"),
    prefixes=("msrvtt10kcn", "msrvttcn"),
)


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`; raises a UserError that lists missing files."""
    return paper_set(SET, data)
