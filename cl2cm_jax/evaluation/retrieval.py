"""Exact retrieval ranks of one language in both directions, and the metrics named after them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cl2cm_jax.maths import ranking
from cl2cm_jax.runtime.atomic import replacing

CaptionsPerImage = Literal["all", "first"]
Query = Literal["target", "fused"]
RECALL_AT = (1, 5, 10)
DIRECTIONS = ("text_to_vision", "vision_to_text")


class Ranks(NamedTuple):
    """Ranks of M text queries and N' vision queries of one language (1 is best), and whose they are.

    `*_image` is the query's row in the gallery of images, so that a resample of images takes an image's queries
    along. N' counts the images that have a caption in this language; the others are no vision queries, but stay in
    the gallery of the text queries.
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

    Scores are dot products, so mixing vectors is mixing scores; the result is therefore not normalised.
    Source: siblings (NRCCR), weight 0.5; they stretch the scores of either query to [0, 1] over the whole split first,
    which we leave. Never print its numbers in one column with the target query's.
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

    Args:
        text: (M, D) float32 caption vectors of one language.
        vision: (N, D) float32 image vectors.
        text_image: (M,) int, each caption's row in `vision`.
        captions_per_image: "all" uses every caption; "first" only the first of each image. Published numbers exist in
            both protocols, and they differ by 7 to 8 points in vision-to-text.
        block: rows of the largest score tile held in memory.

    Raises:
        ValueError: NaN or infinite vectors (counting would call them perfect), or no caption at all.

    Source: ours (ties count against us, of several right answers the best one counts).
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
    """Named metrics: `<direction>/R@1`, R@5, R@10 and mAP in percent, median and mean rank, SumR and mR.

    SumR is the sum of the six recalls (at most 600), mR is SumR / 6.
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
    """Writes the ranks of several languages to one .npz file, whole or not at all."""
    arrays = {f"{language}/{name}": a for language, ranks in languages.items() for name, a in ranks._asdict().items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_ranks(path: Path) -> dict[str, Ranks]:
    """Reads what `save_ranks` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        languages = dict.fromkeys(name.split("/")[0] for name in arrays.files)
        return {
            language: Ranks(**{field: arrays[f"{language}/{field}"] for field in Ranks._fields})
            for language in languages
        }
