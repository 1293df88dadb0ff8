"""The `stamps` set: Tux Paint's stamps with human captions, and machine translations to train on.

`stamp_files` reads the pictures and captions, and its `split_of` splits them. English
captions are human everywhere. Validation and test keep the human captions of every language. So does training where no
file of translations is named; with one, its machine translations are all that training sees beside English.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cl2cm_jax.data import builders
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.records import HEADLINE, SPLITS, Caption, Record
from cl2cm_jax.data.sets.stamp_files import SOURCE, Stamp, picture, stamps, stamps_folder
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import write_text


@dataclass(eq=False)
class StampsConfig(tfds.core.BuilderConfig):
    """Where the stamps and the translations are. Its name is a fingerprint of both."""

    root: str = ""
    translations: str = ""


def stamps_builder(*, data_dir: str | os.PathLike[str], root: str, translations: str = "") -> Stamps:
    """The builder of the set; `builders.prepare` builds it.

    Args:
      data_dir: where built sets lie.
      root: the unpacked Debian package, or the folder of the stamps itself.
      translations: a caption file (`readers.caption_file`) with machine translations of the training captions;
        "" trains on the human ones.

    Raises:
      UserError: the stamps or the translations are not there.
    """
    folder = stamps_folder(root)
    if translations and not Path(translations).is_file():
        raise UserError(
            f"config.data.captions={translations!r} is not a file; make stamps writes it; '' trains on human captions"
        )
    files = [*builders.files_below(folder), *([translations] if translations else [])]
    config = StampsConfig(
        name=builders.fingerprint(files, settings=()),
        description="Tux Paint's stamps.",
        root=str(folder),
        translations=translations,
    )
    with builders.without_commentary():
        return Stamps(data_dir=data_dir, config=config)


class Stamps(tfds.core.GeneratorBasedBuilder):
    """Stamps and their captions; made by `stamps_builder`. A PNG file of each lies in `png/` beside the records."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when the captions, the pictures or the split change

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=builders.features(),
            homepage="https://tuxpaint.org",
            license="GPL-2",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        config = self.builder_config
        assert isinstance(config, StampsConfig)
        entries = stamps(config.root)
        translated = read_translations(config.translations, entries) if config.translations else None
        Path(self.data_dir, "png").mkdir(parents=True)  # temporary here: they appear together with the records
        return {split: self._generate_examples(entries, split, translated) for split in SPLITS}

    def _generate_examples(
        self, entries: Sequence[Stamp], split: str, translated: Mapping[str, Sequence[Caption]] | None
    ) -> Iterator[tuple[int, Any]]:
        for key, entry in enumerate(entries):
            if entry.split != split:
                continue
            path, png = f"png/{entry.image_id.replace('/', '-')}.png", picture(entry.file)
            Path(self.data_dir, path).write_bytes(png)
            captions = [Caption(language, text, "human") for language, text in entry.captions.items()]
            if split == "train" and translated is not None:
                captions = [captions[0], *translated.get(entry.image_id, ())]
            record = Record(
                image=png,
                feature=None,
                image_id=entry.image_id,
                group=HEADLINE,
                concept=entry.concept,
                path=path,
                captions=tuple(captions),
            )
            yield key, builders.example(record)


def read_translations(path: str, entries: Sequence[Stamp]) -> dict[str, list[Caption]]:
    """The machine translations of a caption file by picture; its rows in English are what was translated.

    Raises:
      UserError: a row is wrong, names no training picture, or is not a machine's.
    """
    caption_file = read_caption_file(path, image_is_path=False)
    if caption_file.problems:
        raise UserError(f"{caption_file.problems[0]}; mend it or delete the file, make stamps writes it anew")
    training = {entry.image_id for entry in entries if entry.split == "train"}
    translated: dict[str, list[Caption]] = {}
    for row in caption_file.rows:
        if row.image not in training:
            raise UserError(
                f"{path}, line {row.line}: {row.image!r} is no picture of the training split; translate the captions "
                "that cl2cm stamps writes"
            )
        if row.language == SOURCE:
            continue
        if row.origin != "machine":
            raise UserError(f"{path}, line {row.line}: origin is {row.origin!r}; a translation's is 'machine'")
        translated.setdefault(row.image, []).append(Caption(row.language, row.caption, row.origin))
    return translated


def write_source_captions(entries: Sequence[Stamp], path: Path) -> int:
    """Writes the English captions of the training split as JSONL, ready for translation; returns their number."""
    rows = [
        {
            "image": entry.image_id,
            "language": SOURCE,
            "caption": entry.captions[SOURCE],
            "split": entry.split,
            "origin": "human",
        }
        for entry in entries
        if entry.split == "train"
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)
