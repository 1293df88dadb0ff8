"""The `flickr8k_cn` set: Flickr8k's photographs in English, machine-translated Chinese and Chinese by people.

Training images have all three, so that the ceiling (training on what people wrote) can be told from the method; which
of them are trained on is `data.train_origin`. Validation and test have what people wrote. `flickr8k_files` says what is
needed and who publishes it, `flickr8k_text` what becomes of the captions. Features on disk may stand in for pictures.
"""

from __future__ import annotations

import os
from pathlib import Path

from cl2cm_jax.data import builders
from cl2cm_jax.data.records import SPLITS
from cl2cm_jax.data.sets.paper.features import read_image_features
from cl2cm_jax.data.sets.paper.flickr8k_files import NAME, find
from cl2cm_jax.data.sets.paper.flickr8k_text import Flickr8kText
from cl2cm_jax.data.sets.paper.sets import PaperBuilder, PaperConfig
from cl2cm_jax.data.sets.paper.vision import Features, Pictures, VisionFiles
from cl2cm_jax.errors import UserError


class Flickr8kCn(PaperBuilder):
    """Flickr8k-CN: photographs, English to Chinese and to the languages of a caption file."""


def flickr8k_cn_builder(
    *,
    data_dir: str | os.PathLike[str],
    root: str = "",
    captions: str = "",
    engine: str = "baidu",
    images: str = "",
    features: str = "",
    feature_ids: str = "",
    on_error: str = "stop",
) -> Flickr8kCn:
    """The builder of the set; `builders.prepare` builds it.

    Args:
      data_dir: where built sets lie.
      root: folder that the published files lie in or below; "" if `captions` has all captions and splits.
      captions: caption file of further languages, see `cl2cm_jax.data.readers.caption_file`; "" if there is none.
      engine: "baidu" or "google", whose Chinese is read of the published files.
      images: folder of the pictures, `<id>.jpg`; "" is the published one.
      features: in place of pictures: .npy of (n, d) or (n, frames, d) floats, and
      feature_ids: text file with the image id of each of its rows, one a line.
      on_error: "stop" at problems, or "skip" the captions and images that have one.

    Raises:
      UserError: files are missing, which are listed.
    """
    for field, path in (("captions", captions), ("features", features), ("feature_ids", feature_ids)):
        if path and not Path(path).is_file():
            raise UserError(f"config.data.{field}={path!r} is not a file; check the path")
    published = find(root, engine=engine, with_pictures=not images and not features) if root else None
    if features:
        vision = _features(features, feature_ids)
    else:
        vision = _pictures(images or str((published and published.pictures) or ""))
    text = Flickr8kText(published, captions)
    files = [
        file
        for path in (*text.paths, *vision.paths)
        for file in (builders.files_below(path) if path.is_dir() else [str(path)])
    ]
    config = PaperConfig(
        name=builders.fingerprint(files, [NAME, on_error]),
        description=Flickr8kCn.__doc__,
        targets=("zh",),
        root=root or captions,
        field="root" if root else "captions",
        on_error=on_error,
        text=text,
        vision=vision,
    )
    with builders.without_commentary():
        return Flickr8kCn(data_dir=data_dir, config=config)


def _features(features: str, feature_ids: str) -> VisionFiles:
    if not feature_ids:
        raise UserError("config.data.feature_ids='' must name the file with the image id of each feature row")
    paths = Path(features), Path(feature_ids)
    return VisionFiles(
        list(paths),
        lambda: read_image_features(*paths).shape,
        lambda: dict.fromkeys(SPLITS, Features(read_image_features(*paths), where=paths[1])),
    )


def _pictures(images: str) -> VisionFiles:
    if not Path(images).is_dir() or not images:
        raise UserError(
            f"config.data.images={images!r} is not a folder; name the folder with the pictures, <id>.jpg, or "
            "config.data.root with the published files"
        )
    folder = Path(images)
    return VisionFiles([folder], lambda: None, lambda: dict.fromkeys(SPLITS, Pictures(folder, files=None, listed=None)))
