"""Reads Multi30K's text from its own repository: data/task{1,2}/raw/*.gz, line i belongs to line i of an image list.

Task 1 has one English caption an image and its human translations into German, French and Czech; task 2 has five
English and five German captions per image, written independently. All of it is human, training targets too: this is
not the machine-translated setting of the paper.

Source: Multi30K's authors (the format).
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.captions import Caption, CaptionTable
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.data.sets.paper.features import read_image_ids
from cl2cm_jax.data.sets.paper.files import Search
from cl2cm_jax.errors import UserError

_FILES = {
    1: {"train": "train", "validation": "val", "test": "test_2016_flickr"},
    2: {"train": "train", "validation": "val", "test": "test_2016"},
}


class RawFiles:
    """The files of a task, found and not yet read."""

    def __init__(self, search: Search, folder: Path, data: ConfigDict):
        self.texts: dict[str, list[tuple[str, Path]]] = {}
        self.images: dict[str, Path] = {}
        for split, part in _FILES[data.task].items():
            name = f"{part}.txt" if data.task == 1 else f"{part}_images.txt"
            found = search.file([name], [folder / "image_splits"])
            self.images |= {split: found} if found else {}
            parts = [part] if data.task == 1 else [f"{part}.{k}" for k in range(1, 6)]
            for language in ("en", *data.targets, *data.reported):
                for text in parts:
                    names = [f"{text}.{language}.gz", f"{text}.{language}"]
                    file = search.file(names, [folder / "raw"])
                    self.texts.setdefault(split, []).extend([(language, file)] if file else [])

    @classmethod
    def found_in(cls, search: Search, data: ConfigDict) -> RawFiles | None:
        """The files in a copy of the repository, or in its data/; None if `search.root` is neither."""
        folders = (search.root / "data" / f"task{data.task}", search.root / f"task{data.task}")
        folder = next((folder for folder in folders if (folder / "raw").is_dir()), None)
        return None if folder is None else cls(search, folder, data)

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.images.values(), *(path for texts in self.texts.values() for _, path in texts)]

    def read(self) -> CaptionTable:
        """The captions of each split in the order of its image list.

        Raises:
          UserError: a file is damaged, or has not as many lines as there are images.
        """
        table = CaptionTable([])
        for split, list_of_images in self.images.items():
            images = read_image_ids(list_of_images)
            rows: list[Caption] = []
            for language, path in self.texts[split]:
                lines = read_lines(path)
                if len(lines) != len(images):
                    raise UserError(
                        f"{path} has {len(lines)} lines but {list_of_images} has {len(images)} images; they are a pair"
                    )
                for number, (image, line) in enumerate(zip(images, lines, strict=True), start=1):
                    if line.strip():
                        rows.append(Caption(image, language, line.strip(), split))
                    else:
                        table.problems.append(Problem(str(path), number, "sentence", "is empty; get a fresh copy"))
            place = {image: number for number, image in enumerate(images)}
            table.rows.extend(sorted(rows, key=lambda row: place[row.image]))
        return table
