"""The `stamps` set: Tux Paint's stamps with human captions, and machine translations to train on.

English captions are human in all splits. Validation and test have the human captions of every language, and so has
training without a file of translations; with one, training has its machine translations in place of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet, files_below, fingerprint
from cl2cm_jax.data.captions import Caption, CaptionTable, by_image
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.data.sets.pictograms.stamp_files import SOURCE, picture, stamps, stamps_folder
from cl2cm_jax.errors import UserError


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of the package in `data.root`; a PNG file of each stamp is kept in `png/` beside the records.

    `data.captions` names a caption file with machine translations of the training captions; "" trains on human ones.

    Raises:
      UserError: the stamps or the translations are not there.
    """
    root, translations = stamps_folder(data.root), data.captions
    if translations and not Path(translations).is_file():
        raise UserError(
            f"config.data.captions={translations!r} is not a file; make stamps writes it; '' trains on human captions"
        )

    def read(folder: Path, mapper: Mapper) -> CaptionTable:
        del mapper
        rows = stamps(root)
        if translations:
            rows = with_translations(rows, translations)
        (folder / "png").mkdir(parents=True)
        table = CaptionTable([])
        for image, own in by_image(rows).items():
            png = f"png/{image.replace('/', '-')}.png"
            (folder / png).write_bytes(picture(Path(str(own[0].picture))))
            table.rows.extend(row._replace(picture=png) for row in own)
        return table

    return CaptionSet(
        name="stamps",
        read=read,
        inputs=fingerprint([*files_below(root), *([translations] if translations else [])]),
        description="Tux Paint's stamps.",
        homepage="https://tuxpaint.org",
        license="GPL-2",
    )


def with_translations(rows: Sequence[Caption], path: str) -> list[Caption]:
    """The stamps with the machine translations of a caption file in place of the human ones of training.

    Raises:
      UserError: a row of the file is wrong, names no training picture, or is no machine translation.
    """
    table = read_caption_file(path, image_is_path=False)
    if serious := table.serious:
        raise UserError(f"{serious[0]}; fix it, or delete the file, and make stamps writes it again")
    english = {row.image: row for row in rows if row.split == "train" and row.language == SOURCE}
    translated: list[Caption] = []
    for row in table.rows:
        if row.image not in english:
            raise UserError(
                f"{path}, line {row.line}: {row.image!r} is not a picture of the training split; translate the "
                "captions that cl2cm stamps writes"
            )
        if row.language == SOURCE:
            continue
        if row.origin != "machine":
            raise UserError(f"{path}, line {row.line}: origin is {row.origin!r}; a translation's is 'machine'")
        translated.append(english[row.image]._replace(language=row.language, caption=row.caption, origin=row.origin))
    return [row for row in rows if row.split != "train" or row.language == SOURCE] + translated
