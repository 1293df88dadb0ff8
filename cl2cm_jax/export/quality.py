"""What a conversion costs in quality: recall of the converted towers on the run's own test split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.picture import Queries
from cl2cm_jax.evaluation.report import Results
from cl2cm_jax.export.towers import image_inputs, text_inputs
from cl2cm_jax.features import cache
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.training.identity import check_recorded_data

Encode = Callable[[dict[str, np.ndarray]], np.ndarray]
_IMAGES = 64  # decoded at once


@dataclass(frozen=True, kw_only=True)
class TestSplit:
    """The headline part of a run's test split as inputs of the towers.

    Attributes:
      corpus: images and captions.
      texts: by language, the inputs of its captions and the rows of their images.
    """

    corpus: Corpus
    texts: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


def read_test_split(
    config: ConfigDict, parts: Parts, data: str, *, languages: Sequence[str] | None = None
) -> TestSplit | None:
    """The test split, if its data are available and its images are files; otherwise None, with a warning.

    Args:
      config: of the run.
      parts: of the bundle.
      data: the fingerprint of the data of the run, "" if it has none.
      languages: of the captions, as far as the headline has them; None: all of the headline.
    """
    try:
        corpora = cache.corpora(config)
        check_recorded_data(data, corpora, name="the run")
        corpus = evaluate.headline(corpora.test)
    except (UserError, ImportError) as error:
        logging.warning("the quality of the conversion is not measured: the data are not available (%s)", error)
        return None
    if parts.vision is None or config.data.frames > 1 or not all(Path(path).is_file() for path in corpus.paths):
        logging.warning("the quality of the conversion is not measured: the test images are not single image files")
        return None
    texts = {}
    headline = (config.data.source, *config.data.targets)
    for language in (one for one in headline if languages is None or one in languages):
        rows = corpus.captions_of(language)
        if len(rows):
            inputs = text_inputs(parts, [corpus.caption_text[row] for row in rows])
            texts[language] = (inputs, corpus.caption_image[rows])
    return TestSplit(corpus=corpus, texts=texts)


def sum_recalls(
    split: TestSplit, parts: Parts, config: ConfigDict, *, text: Encode, vision: Encode
) -> dict[str, float]:
    """SumR by language with these towers, for queries in their own language."""
    paths = split.corpus.paths
    images = [
        vision(image_inputs(parts, [decode(path) for path in paths[start : start + _IMAGES]]))
        for start in range(0, len(paths), _IMAGES)
    ]
    queries = {language: Queries([], text(inputs), rows) for language, (inputs, rows) in split.texts.items()}
    embedded = evaluate.Embedded(split.corpus, np.concatenate(images), queries, {})
    ranks = evaluate.rank_all(embedded, config, query="target")
    return {language: metrics["SumR"] for language, metrics in evaluate.measure(ranks, list(queries)).items()}


def table(results: Results, columns: dict[str, dict[str, float]]) -> list[str]:
    """Markdown table: SumR by language and its mean over targets, of the run itself (JAX) and of the `columns`.

    The languages are those of the columns.
    """
    common = set.intersection(*map(set, columns.values()))
    run = {language: metrics["SumR"] for language, metrics in results.test.items() if language in common}
    targets = [target for target in results.targets if target in run]
    columns = {"JAX": run} | columns
    rows = [[language, *(f"{column[language]:.1f}" for column in columns.values())] for language in run]
    if len(targets) > 1:
        means = (sum(column[target] for target in targets) / len(targets) for column in columns.values())
        rows.append([f"mean of {len(targets)} targets", *(f"{mean:.1f}" for mean in means)])
    lines = [["SumR", *columns], ["---", *("---:" for _ in columns)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
