"""The data sets by the name that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from cl2cm_jax.config import LANGUAGES_OF

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def builder(data: ConfigDict) -> tfds.core.DatasetBuilder:
    """The builder of `config.data`; `builders.prepare` builds the set.

    Raises:
      UserError: an input is not named or not there.
    """
    return _SETS[data.name](data)


def _emoji(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.emoji import Emoji

    return Emoji(data_dir=data.dir)


def _captions(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.captions import captions_builder

    return captions_builder(
        data_dir=data.dir,
        captions=data.captions,
        images=data.images,
        features=data.features,
        feature_ids=data.feature_ids,
        shards=data.shards,
        source=data.source,
        on_error=data.on_error,
        frames=data.frames,
    )


def _of_the_paper(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.paper.sets import paper_builder

    return paper_builder(
        data.name,
        data_dir=data.dir,
        root=data.root,
        targets=(*data.targets, *data.reported),
        task=data.task,
        images=data.images,
        features=data.features,
        on_error=data.on_error,
    )


def _flickr8k_cn(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.paper.flickr8k_cn import flickr8k_cn_builder

    return flickr8k_cn_builder(
        data_dir=data.dir,
        root=data.root,
        captions=data.captions,
        engine=data.engine,
        images=data.images,
        features=data.features,
        feature_ids=data.feature_ids,
        on_error=data.on_error,
    )


def _stamps(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.stamps import stamps_builder

    return stamps_builder(data_dir=data.dir, root=data.root, translations=data.captions)


def _fluent(data: ConfigDict) -> tfds.core.DatasetBuilder:
    from cl2cm_jax.data.sets.fluent import Fluent

    return Fluent(root=data.root, data_dir=data.dir)


# name -> (config.data) -> builder; each imports its module when it is asked for, since tfds is slow to import
_SETS: dict[str, Callable[[ConfigDict], tfds.core.DatasetBuilder]] = {
    "emoji": _emoji,
    "captions": _captions,
    "fluent": _fluent,
    "stamps": _stamps,
    "flickr8k_cn": _flickr8k_cn,
    **dict.fromkeys(LANGUAGES_OF, _of_the_paper),
}
