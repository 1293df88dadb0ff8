"""The sets of the paper, `multi30k`, `mscoco`, `vatex` and `msrvtt_cn`, as their authors publish them.

`paper_files` says what the files are called and where they lie, `paper_text` and `raw_multi30k` read captions,
`paper_vision` pictures and features. All problems are listed in a report; the build then stops, or leaves out what has
one if told to. A number of images other than the published one is a warning that names both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import tensorflow_datasets as tfds

from cl2cm_jax.data import builders
from cl2cm_jax.data.readers.problems import Problem, settle
from cl2cm_jax.data.records import HEADLINE, Record
from cl2cm_jax.data.sets.paper.files import PAPER_SETS, Search
from cl2cm_jax.data.sets.paper.raw_multi30k import Captions, RawFiles, raw_folder
from cl2cm_jax.data.sets.paper.text import TextFiles
from cl2cm_jax.data.sets.paper.vision import Vision, VisionFiles, find_vision, reasons_against
from cl2cm_jax.errors import UserError


class Text(Protocol):
    """The caption files of a set, found and not yet read."""

    @property
    def paths(self) -> list[Path]:
        """All files."""
        ...

    def read(self) -> tuple[dict[str, Captions], list[Problem]]:
        """Captions of each split by media id, and what is wrong with lines."""
        ...


@dataclass(eq=False)
class PaperConfig(tfds.core.BuilderConfig):
    """What a set is made of. Its name is a fingerprint of the inputs: when they change, it is built anew."""

    targets: tuple[str, ...] = ()
    root: str = ""
    field: str = "root"  # of config.data that named `root`
    on_error: str = "stop"
    text: Text | None = None
    vision: VisionFiles | None = None


class PaperBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One of the sets; made by `paper_builder`."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def report_path(self) -> Path:
        """The list of all problems and notes of the last build, beside the built set."""
        return Path(self._data_dir_root, self.name, f"{self._config.name}.report.tsv")

    @property
    def _config(self) -> PaperConfig:
        assert isinstance(self.builder_config, PaperConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        assert self._config.vision is not None
        return self.dataset_info_from_configs(
            description=__doc__, features=builders.features(self._config.vision.shape()), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        config = self._config
        assert config.text is not None and config.vision is not None
        splits, problems = config.text.read()
        vision = config.vision.read()
        problems += [note for split in splits for note in _unused(split, vision[split], splits)]
        for split, captions in splits.items():
            against = reasons_against(vision[split], captions)
            problems += [Problem(f"{config.root} ({split})", None, "id", reason) for reason in against.values()]
            splits[split] = {media: rows for media, rows in captions.items() if media not in against and rows}
        notes = _differences(self.name, config.targets, splits)
        shared = [note for split in splits for note in _shared(split, vision[split], splits)]
        settle(self.report_path, list(dict.fromkeys([*problems, *shared, *notes])), on_error=config.on_error)
        for note in (*shared, *notes):
            logging.warning("%s: %s", self.name, note.reason)
        for split, captions in splits.items():
            if not captions:
                fix = f"give some images {split}" if config.field == "captions" else "get a fresh copy"
                raise UserError(f"config.data.{config.field}={config.root!r}: split {split!r} has no image; {fix}")
        return {split: self._generate_examples(captions, vision[split]) for split, captions in splits.items()}

    def _generate_examples(self, captions: Captions, vision: Vision) -> Iterator[tuple[int, Any]]:
        for key, (media, rows) in enumerate(captions.items()):
            seen = vision.load(media)
            record = Record(
                image=seen.image,
                feature=seen.feature,
                image_id=media,
                group=HEADLINE,
                concept=media,
                path=seen.path,
                captions=tuple(rows),
            )
            yield key, builders.example(record)


class Multi30k(PaperBuilder):
    """Multi30K: photographs, English to German, French and Czech."""


class Mscoco(PaperBuilder):
    """MSCOCO: photographs, English to Chinese (COCO-CN) or Japanese (STAIR Captions)."""


class Vatex(PaperBuilder):
    """VATEX: features of videos, English to Chinese."""


class MsrvttCn(PaperBuilder):
    """MSR-VTT-CN: features of videos, English to Chinese."""


BUILDERS = {"multi30k": Multi30k, "mscoco": Mscoco, "vatex": Vatex, "msrvtt_cn": MsrvttCn}


def paper_builder(
    name: str,
    *,
    data_dir: str,
    root: str,
    targets: Sequence[str],
    task: int,
    images: str = "",
    features: str = "",
    on_error: str = "stop",
) -> PaperBuilder:
    """The builder of a set of the paper; `builders.prepare` builds it.

    Args:
      name: of the set.
      data_dir: where built sets lie.
      root: the published tree, or the folder that it lies in; for multi30k also a copy of the raw text's repository.
      targets: target languages; of mscoco one, since each has validation and test images of its own.
      task: 2 or 1, of multi30k.
      images: folder of the pictures; "" is the tree's own.
      features: "" for pictures; else the name of features in FeatureData/, or a folder.
      on_error: "stop" at problems, or "skip" the captions and images that have one.

    Raises:
      UserError: files are missing, which are listed.
    """
    search = Search(name, root)
    raw = raw_folder(search.root, task) if name == "multi30k" else None
    if raw:
        text = RawFiles(search, raw, task=task, languages=("en", *targets))
    else:
        text = TextFiles(search, targets=targets, task=task)
    vision = find_vision(search, target=targets[0], images=images, features=features)
    search.check()
    files = [
        file
        for path in (*text.paths, *vision.paths)
        for file in (builders.files_below(path) if path.is_dir() else [str(path)])
    ]
    settings = [name, *targets, str(task), images, features, on_error]
    config = PaperConfig(
        name=builders.fingerprint(files, settings),
        description=BUILDERS[name].__doc__,
        targets=tuple(targets),
        root=root,
        on_error=on_error,
        text=text,
        vision=vision,
    )
    with builders.without_commentary():
        return cast(PaperBuilder, BUILDERS[name](data_dir=data_dir, config=config))


def _unused(split: str, vision: Vision, splits: Mapping[str, Captions]) -> list[Problem]:
    """A note on listed images or videos that no split has captions of."""
    known = set().union(*splits.values())
    unused = [media for media in vision.ids() if media not in known]
    reason = f"{len(unused)} of {vision.where} have no caption and are not used"
    return [Problem(vision.where, None, "id", f"{reason}, first {unused[0]!r}", is_note=True)] if unused else []


def _shared(split: str, vision: Vision, splits: Mapping[str, Captions]) -> list[Problem]:
    """A note on images or videos of an evaluation split that are trained on."""
    twice = [media for media in splits[split] if split != "train" and media in splits["train"]]
    reason = f"{len(twice)} of the {split} split are in the train split as well"
    return [Problem(vision.where, None, "id", f"{reason}, first {twice[0]!r}", is_note=True)] if twice else []


def _differences(name: str, targets: Sequence[str], splits: Mapping[str, Captions]) -> list[Problem]:
    """A note for each split that is not as published: its number of images, or the captions of each."""
    published = PAPER_SETS[name]
    reasons = []
    sizes = published.sizes.get("", {}) | published.sizes.get(targets[0], {})
    for split, captions in splits.items():
        if len(captions) != sizes.get(split, len(captions)):
            reasons.append(f"the {split} split has {len(captions):,} images or videos, {sizes[split]:,} as published")
        if published.captions_each:
            reasons += _uneven(split, captions, published.captions_each)
    return [Problem(name, None, "split", reason, is_note=True) for reason in reasons]


def _uneven(split: str, captions: Captions, each: int) -> list[str]:
    """One line for each language in which images have not exactly `each` captions."""
    found: dict[str, list[str]] = {}
    for media, rows in captions.items():
        languages = [row.language for row in rows]
        for language in dict.fromkeys(languages):
            if languages.count(language) != each:
                found.setdefault(language, []).append(f"{media!r} has {languages.count(language)}")
    return [
        f"{len(medias):,} of {len(captions):,} in the {split} split have not exactly {each} captions in {language!r} "
        f"as published, e.g. {medias[0]}"
        for language, medias in found.items()
    ]
