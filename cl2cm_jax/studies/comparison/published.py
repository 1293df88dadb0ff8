"""Published numbers, each with its source and its protocol as far as it is known.

Only numbers printed by the authors of a method are listed. The protocol is that of their public test code, which ranks
every caption, counts the best of several correct answers, and breaks ties by the order of the gallery.
"""

from __future__ import annotations

from cl2cm_jax.evaluation.retrieval import DIRECTIONS
from cl2cm_jax.studies.comparison.tables import Row

_NRCCR = "README of github.com/LiJiaBei-7/nrccr (ACM MM 2022, arXiv 2208.12526)"
_MLCMR = "README of github.com/HuiGuanLab/MLCMR, trained on machine translations"
_CCLM = "arXiv 2206.00621, six times its mean recall; not verified"
_FUSED = "query=fused 0.5 on scores stretched to [0, 1] (its test code)"
_ANY = "query not stated (its test code prints five weights)"
_MLCMR_FUSED = "query=fused 0.45 (its test code)"
_NAMES = tuple(
    f"{direction}/{name}" for direction in DIRECTIONS for name in ("R@1", "R@5", "R@10", "median_rank", "mAP")
)


def _full(*values: float) -> dict[str, float]:
    """R@1, R@5, R@10, median rank and mAP, text to vision and back, and SumR: as NRCCR and MLCMR print them."""
    return dict(zip((*_NAMES, "SumR"), values, strict=True))


def _nrccr(name: str, language: str, test: str, metrics: dict[str, float], encoder: str = "CLIP ViT-B/32") -> Row:
    return Row(f"NRCCR ({encoder}, mBERT)", name, language, "fused", "all", f"{test}, {_FUSED}", metrics, _NRCCR)


def _video(method: str, name: str, query: str, protocol: str, source: str, *values: float) -> Row:
    return Row(method, name, "zh", query, "all", protocol, _full(*values), source)


_TASK_1 = "test 2016, 1,000 images, task 1, 1 caption each (all)"
_TASK_2, _TASK_2_DE = (f"test 2016, 1,000 images, task 2, {count} each (all)" for count in ("1 caption", "5 captions"))
_VATEX = "test, 1,500 videos, 10 captions each (all)"
_MSRVTT = "test, 1,000 videos, 1 caption each (all)"

PUBLISHED: tuple[Row, ...] = (
    _nrccr("multi30k", "de", _TASK_1, _full(53.8, 81.8, 88.3, 1.0, 66.60, 53.8, 82.7, 90.3, 1.0, 66.66, 450.7)),
    _nrccr("multi30k", "fr", _TASK_1, _full(54.7, 81.7, 89.2, 1.0, 67.05, 54.9, 82.7, 89.7, 1.0, 67.29, 452.9)),
    _nrccr("multi30k", "cs", _TASK_1, _full(52.6, 79.4, 87.9, 1.0, 65.26, 52.3, 78.7, 87.8, 1.0, 64.68, 438.7)),
    _nrccr(
        "multi30k", "cs", _TASK_1, _full(29.5, 56.0, 68.1, 4.0, 41.89, 27.5, 55.1, 67.4, 4.0, 40.59, 303.6),
        encoder="ResNet-152",
    ),
    _nrccr("multi30k", "de", _TASK_2_DE, {"SumR": 480.9}),
    _nrccr("multi30k", "fr", _TASK_2, {"SumR": 482.1}),
    _nrccr("multi30k", "cs", _TASK_2, {"SumR": 467.1}),
    _nrccr("mscoco", "zh", "COCO-CN test, 1,000 images (all)", {"SumR": 512.4}),
    _nrccr("mscoco", "ja", "STAIR test, 1,000 images (all)", {"SumR": 507.0}),
    _video(
        "NRCCR (I3D, mBERT)", "vatex", "not stated", f"{_VATEX}, {_ANY}", _NRCCR,
        30.8, 64.4, 74.6, 3.0, 45.78, 43.1, 72.3, 81.4, 2.0, 32.57, 366.5,
    ),
    _video(
        "MLCMR (I3D, mBERT)", "vatex", "fused", f"{_VATEX}, {_MLCMR_FUSED}", _MLCMR,
        32.5, 66.2, 76.7, 3.0, 47.58, 48.1, 75.5, 84.5, 2.0, 34.94, 383.5,
    ),
    _video(
        "NRCCR (ResNeXt-101 + ResNet-152, mBERT)", "msrvtt_cn", "not stated", f"test (all), {_ANY}", _NRCCR,
        28.9, 56.3, 67.3, 4.0, 41.28, 28.9, 57.6, 69.0, 4.0, 42.02, 308.0,
    ),
    _video(
        "MLCMR (ResNeXt-101 + ResNet-152, mBERT)", "msrvtt_cn", "fused", f"{_MSRVTT}, {_MLCMR_FUSED}", _MLCMR,
        28.9, 55.5, 69.2, 4.0, 41.54, 30.4, 57.8, 69.7, 4.0, 43.07, 311.5,
    ),
)  # fmt: skip
"""Methods comparable to the paper: trained on one set, one vector per text and one per image."""

PRETRAINED: tuple[Row, ...] = tuple(
    Row("CCLM-3M", name, language, "not stated", "all", "test, re-ranked, query not stated", {"SumR": total}, _CCLM)
    for name, language, total in (
        ("multi30k", "de", 539.4), ("multi30k", "fr", 536.4), ("multi30k", "cs", 528.6),
        ("mscoco", "zh", 542.4), ("mscoco", "ja", 523.8),
    )
)  # fmt: skip
"""Pretrained on millions of captioned images, and re-ranking with attention between text and image."""

SETS = tuple(dict.fromkeys(row.set for row in PUBLISHED))
