"""The `flickr8k_cn` set: Flickr8k's photographs in English, machine-translated Chinese and Chinese by people.

Training images have all three, so that training on human captions, an upper bound, can be compared with the method;
`data.train_origin` chooses between them. Validation and test have human captions. `paper.flickr8k_files` lists the
needed files and who publishes them. Features on disk may replace pictures.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.captions import SPLITS
from cl2cm_jax.data.sets.paper.build import joined
from cl2cm_jax.data.sets.paper.features import read_image_features
from cl2cm_jax.data.sets.paper.files import PaperSet
from cl2cm_jax.data.sets.paper.flickr8k_files import NAME, PUBLISHED, SIZES, find
from cl2cm_jax.data.sets.paper.flickr8k_text import Flickr8kText
from cl2cm_jax.data.sets.paper.vision import Features, Pictures, VisionFiles
from cl2cm_jax.errors import UserError

SET = PaperSet(
    name=NAME,
    description="Flickr8k-CN: photographs, English to Chinese and to the languages of a caption file.",
    published=PUBLISHED,
    sizes={"": SIZES},
)


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`: its published files, a caption file with all captions and splits, or both.

    Raises:
      UserError: files are missing, which are listed.
    """
    for field in ("captions", "features", "feature_ids"):
        if data[field] and not Path(data[field]).is_file():
            raise UserError(f"config.data.{field}={data[field]!r} is not a file; check the path")
    with_pictures = not data.images and not data.features
    published = find(data.root, engine=data.engine, with_pictures=with_pictures) if data.root else None
    if data.features:
        vision = _features(data.features, data.feature_ids)
    else:
        vision = _pictures(data.images or str((published and published.pictures) or ""))
    return joined(
        SET,
        Flickr8kText(published, data.captions),
        vision,
        targets=("zh",),
        settings=[NAME, data.on_error],
        origin=("root", data.root) if data.root else ("captions", data.captions),
    )


def _features(features: str, feature_ids: str) -> VisionFiles:
    if not feature_ids:
        raise UserError("config.data.feature_ids='' must name the file with the image id of each feature row")
    paths = Path(features), Path(feature_ids)
    return VisionFiles(
        list(paths),
        lambda: dict.fromkeys(SPLITS, Features(read_image_features(*paths), where=paths[1])),
        lambda: read_image_features(*paths).shape,
    )


def _pictures(images: str) -> VisionFiles:
    if not Path(images).is_dir() or not images:
        raise UserError(
            f"config.data.images={images!r} is not a folder; name the folder with the pictures, <id>.jpg, or "
            "config.data.root with the published files"
        )
    return VisionFiles([Path(images)], lambda: dict.fromkeys(SPLITS, Pictures(Path(images))))
