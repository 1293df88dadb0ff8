"""The `emoji` set: 1,880 OpenMoji drawings with names in fourteen languages, built offline from three packages."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.captions import CaptionTable
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.data.sets.pictograms.drawings import drawings, merge_identical, render


def dataset(data: ConfigDict) -> CaptionSet:
    """The set; a PNG file of each drawing is kept in `png/` beside the records."""
    del data
    return CaptionSet(
        name="emoji",
        read=_read,
        description=__doc__,
        homepage="https://openmoji.org",
        license="Drawings: OpenMoji, CC BY-SA 4.0. Names: Unicode CLDR.",
    )


def _read(folder: Path, mapper: Mapper) -> CaptionTable:
    del mapper
    found = drawings()
    (folder / "png").mkdir(parents=True)
    table = CaptionTable([])
    for drawing, png in merge_identical(found, render([drawing.image_id for drawing in found])):
        picture = f"png/{drawing.image_id}.png"
        (folder / picture).write_bytes(png)
        table.rows.extend(row._replace(picture=picture) for row in drawing.rows)
    return table
