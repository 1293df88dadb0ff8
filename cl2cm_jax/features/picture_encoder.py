"""What is stored of the pictures of a data set: features of the frozen backbone, or digests where it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import vision_first
from cl2cm_jax.data.media.clips import decode_clip
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.features.encoders import ImageEncoder
from cl2cm_jax.models.configured import configured_vision

if TYPE_CHECKING:
    from cl2cm_jax.data.stored_pictures import Picture


def picture_encoder(config: ConfigDict) -> tuple[Callable[[Iterable[Picture]], Iterator[np.ndarray]], int]:
    """Maps pictures to features (F_i, d), or to digests where trained layers read the pictures; and the largest F_i.

    Features of a set that has them may have more frames.
    """
    if vision_first(config) is not None:
        return lambda pictures: (np.frombuffer(picture.digest, np.uint8)[None] for picture in pictures), 1
    vision, frames = configured_vision(config), config.data.frames
    if vision is None:
        return lambda pictures: (picture.feature for picture in pictures if picture.feature is not None), 0
    encode = ImageEncoder(vision, pool=config.vision.pool)
    if frames > 1:
        clips = partial(decode_clip, limit=frames, enough=encode.enough)
        return lambda pictures: encode.clips(clips(p.files()) for p in pictures), frames * encode.frames
    read = partial(_decoded, enough=encode.enough)
    return lambda pictures: encode.each(ahead(read, pictures)), encode.frames


def _decoded(picture: Picture, *, enough: int) -> np.ndarray:
    (file,) = picture.files()
    return decode(file, enough=enough)
