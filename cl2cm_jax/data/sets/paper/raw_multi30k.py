"""Reads Multi30K's text from its own repository: data/task{1,2}/raw/*.gz, line i belongs to line i of an image list.

Task 1 has one English caption an image and its translations by people into German, French and Czech; task 2 has five
English and five German captions an image, written independently. All of it is human, training targets too: this is
not the machine-translated setting of the paper.

Source: Multi30K's authors (the format).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.data.records import Caption
from cl2cm_jax.data.sets.paper.features import read_image_ids
from cl2cm_jax.data.sets.paper.files import Search
from cl2cm_jax.errors import UserError

SPLITS = {
    1: {"train": "train", "validation": "val", "test": "test_2016_flickr"},
    2: {"train": "train", "validation": "val", "test": "test_2016"},
}
Captions = dict[str, list[Caption]]  # by image id


def raw_folder(root: Path, task: int) -> Path | None:
    """The folder of a task in a copy of the repository, or in its data/; None if `root` is neither."""
    folders = (root / "data" / f"task{task}", root / f"task{task}")
    return next((folder for folder in folders if (folder / "raw").is_dir()), None)


class RawFiles:
    """The files of a task, found and not yet read.

    Args:
      search: remembers what is missing.
      folder: of the task.
      task: 1 or 2.
      languages: to read, source and targets.
    """

    def __init__(self, search: Search, folder: Path, *, task: int, languages: Sequence[str]):
        self.texts: dict[str, list[tuple[str, Path]]] = {}
        self.images: dict[str, Path] = {}
        for split, part in SPLITS[task].items():
            name = f"{part}.txt" if task == 1 else f"{part}_images.txt"
            found = search.file([name], [folder / "image_splits"])
            self.images |= {split: found} if found else {}
            parts = [part] if task == 1 else [f"{part}.{k}" for k in range(1, 6)]
            for language in languages:
                for text in parts:
                    names = [f"{text}.{language}.gz", f"{text}.{language}"]
                    file = search.file(names, [folder / "raw"])
                    self.texts.setdefault(split, []).extend([(language, file)] if file else [])

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.images.values(), *(path for texts in self.texts.values() for _, path in texts)]

    def read(self) -> tuple[dict[str, Captions], list[Problem]]:
        """Captions of each split by image id, and what is wrong with lines.

        Raises:
          UserError: a file is damaged, or has not as many lines as there are images.
        """
        splits: dict[str, Captions] = {}
        problems: list[Problem] = []
        for split, list_of_images in self.images.items():
            images = read_image_ids(list_of_images)
            captions: Captions = {image: [] for image in images}
            for language, path in self.texts[split]:
                lines = read_lines(path)
                if len(lines) != len(images):
                    raise UserError(
                        f"{path} has {len(lines)} lines but {list_of_images} has {len(images)} images; they are a pair"
                    )
                for number, (image, line) in enumerate(zip(images, lines, strict=True), start=1):
                    if line.strip():
                        captions[image].append(Caption(language, line.strip(), "human"))
                    else:
                        problems.append(Problem(str(path), number, "sentence", "is empty; get a fresh copy"))
            splits[split] = captions
        return splits, problems
