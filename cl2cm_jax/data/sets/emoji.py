"""The `emoji` set: the embedded default, built offline from three packages in seconds.

1,914 OpenMoji drawings, of which 1,880 differ, with names in fourteen languages; `drawings` reads them and `concepts`
splits them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cl2cm_jax.data import builders
from cl2cm_jax.data.records import SPLITS, Record
from cl2cm_jax.data.sets.drawings import LANGUAGES, Drawing, drawings, merge_identical, render

__all__ = ["LANGUAGES", "Drawing", "Emoji", "drawings"]


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Drawings of emoji and their names. A PNG file of each drawing lies in `png/` beside the records."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when the names, the drawings or the split change

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=builders.features(),
            homepage="https://openmoji.org",
            license="Drawings: OpenMoji, CC BY-SA 4.0. Names: Unicode CLDR.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        entries = drawings()
        distinct = list(merge_identical(entries, render([entry.image_id for entry in entries])))
        # `data_dir` is temporary here: the pictures appear together with the records.
        folder = Path(self.data_dir, "png")
        folder.mkdir(parents=True)
        for entry, png in distinct:
            (folder / f"{entry.image_id}.png").write_bytes(png)
        return {split: self._generate_examples(distinct, split) for split in SPLITS}

    def _generate_examples(self, distinct: list[tuple[Drawing, bytes]], split: str) -> Iterator[tuple[int, Any]]:
        for key, (entry, png) in enumerate(distinct):
            if entry.split == split:
                record = Record(
                    image=png,
                    feature=None,
                    image_id=entry.image_id,
                    group=entry.group,
                    concept=entry.concept,
                    path=f"png/{entry.image_id}.png",
                    captions=entry.captions,
                )
                yield key, builders.example(record)
