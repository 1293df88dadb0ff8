"""Exact retrieval ranks of one language in both directions, and their metrics."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.maths import ranking
from cl2cm_jax.models.pretrained import read_npz
from cl2cm_jax.runtime.checksums import read_checked, write_checked

CaptionsPerImage = Literal["all", "first"]
Query = Literal["target", "fused"]
RECALL_AT = (1, 5, 10)
DIRECTIONS = ("text_to_vision", "vision_to_text")
_AGAIN = "write it again with --mode=evaluate, or delete the folder of a run of a study and run that again"


class Ranks(NamedTuple):
    """Ranks (1 is best) of M text queries and N' vision queries of one language, and the images that they belong to.

    `*_image` is the query's row in the gallery of images, to resample queries with their image. N' counts the images
    with a caption in this language; the others are part of the gallery, but not vision queries.
    """

    text_to_vision: np.ndarray  # (M,) int
    vision_to_text: np.ndarray  # (N',) int
    text_image: np.ndarray  # (M,) int
    vision_image: np.ndarray  # (N',) int
    text_to_vision_ap: np.ndarray  # (M,) float, in [0, 1]
    vision_to_text_ap: np.ndarray  # (N',) float, in [0, 1]


def first_captions(text_image: np.ndarray) -> np.ndarray:
    """Rows of the first caption of each image, in the order of the captions. `text_image` (M,) int -> (N',) int."""
    return np.sort(np.unique(text_image, return_index=True)[1])


def fuse_queries(target: np.ndarray, translated: np.ndarray, *, weight: float = 0.5) -> np.ndarray:
    """Query vectors of the fused protocol, (M, D): `weight` on the query translated to the source language.

    Not normalised, so that the scores (dot products) are the weighted sum of the scores of both queries.
    Source: NRCCR, weight 0.5; it first rescales the scores of each query to [0, 1] over the whole split, which is left
    out here. Its numbers are not comparable with those of the target query alone.
    """
    return weight * translated + (1 - weight) * target


def retrieval_ranks(
    text: np.ndarray,
    vision: np.ndarray,
    *,
    text_image: np.ndarray,
    captions_per_image: CaptionsPerImage = "all",
    block: int = 1024,
) -> Ranks:
    """Ranks every caption against all images, and every captioned image against all captions.

    Ties are pessimistic (a tie ranks below); of several right answers the best counts.

    Args:
        text: (M, D) float32 caption vectors of one language.
        vision: (N, D) float32 image vectors.
        text_image: (M,) int, each caption's row in `vision`.
        captions_per_image: "all", or "first" of each image. Both protocols have published numbers, which differ by 7 to
            8 points in vision-to-text.
        block: rows of a tile of scores in memory.

    Raises:
        ValueError: NaN or infinite vectors (which would rank first), or no caption.
    """
    text_image = np.asarray(text_image)
    if captions_per_image == "first":
        rows = first_captions(text_image)
        text, text_image = text[rows], text_image[rows]
    vision_image = np.unique(text_image)
    to_vision, to_text = ranking.competitors(
        text, vision, query_image=text_image, gallery_image=np.arange(len(vision)), block=block
    )
    to_text = to_text[vision_image]
    return Ranks(
        text_to_vision=ranking.ranks_of(to_vision),
        vision_to_text=ranking.ranks_of(to_text),
        text_image=text_image,
        vision_image=vision_image,
        text_to_vision_ap=ranking.average_precision_of(to_vision),
        vision_to_text_ap=ranking.average_precision_of(to_text),
    )


def metrics(ranks: Ranks) -> dict[str, float]:
    """Metrics by name: `<direction>/R@1`, R@5, R@10 and mAP in percent, median_rank and mean_rank; SumR and mR.

    SumR is the sum of the six recalls (at most 600), mR their mean.
    """
    named: dict[str, float] = {}
    for direction in DIRECTIONS:
        rank = np.asarray(getattr(ranks, direction))
        for k in RECALL_AT:
            named[f"{direction}/R@{k}"] = 100.0 * float(np.mean(rank <= k))
        named[f"{direction}/median_rank"] = float(np.median(rank))
        named[f"{direction}/mean_rank"] = float(np.mean(rank))
        named[f"{direction}/mAP"] = 100.0 * float(np.mean(getattr(ranks, f"{direction}_ap")))
    named["SumR"] = sum(named[f"{direction}/R@{k}"] for direction in DIRECTIONS for k in RECALL_AT)
    named["mR"] = named["SumR"] / 6
    return named


def save_ranks(path: Path, languages: dict[str, Ranks]) -> None:
    """Writes the ranks of several languages to one .npz file, atomically, with its checksum."""
    arrays = {f"{language}/{name}": a for language, ranks in languages.items() for name, a in ranks._asdict().items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_checked(path, file.getvalue())


def load_ranks(path: Path) -> dict[str, Ranks]:
    """Reads a file of `save_ranks`; raises UserError if it is missing or damaged, or of another run."""
    with contextlib.suppress(OSError):  # said below
        read_checked(path, fix=_AGAIN)
    arrays = read_npz(path)
    languages = dict.fromkeys(name.split("/")[0] for name in arrays)
    try:
        return {
            language: Ranks(**{field: arrays[f"{language}/{field}"] for field in Ranks._fields})
            for language in languages
        }
    except KeyError as error:
        raise UserError(f"{path} is damaged, without {error}; {_AGAIN}") from error
